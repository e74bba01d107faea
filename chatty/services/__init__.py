"""The rules, one module a feature: types, pure rules, the port they need, the steps that use it."""
