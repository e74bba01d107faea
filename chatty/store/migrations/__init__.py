"""The migrations, one `.sql` file each, and what runs them."""
