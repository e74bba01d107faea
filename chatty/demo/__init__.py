"""The command `chatty demo`: two people talk, and everything that the server kept of it is searched for their words.

    run.py         everything under one roof, and its end by Ctrl-C
    stage.py       the server: one of its own in a temporary directory, or a running one
    storage.py     what the demo's own server has stored, as a thief of its machine would see it
    devices.py     the parent's hold on three devices, each a process of its own that it can also kill
    device.py      what such a process does: one client of the SDK, told by the lines of orders.py
    story.py       who says what to whom, and what each device then reads
    needles.py     the forms in which a secret could stand in a file
    search.py      looks for needles in files
    audit.py       every secret of the devices, looked for in everything that the server kept
    transcript.py  what a person sees; report.py what `--json` prints

A device's clear texts and keys reach the parent over a pipe, for the transcript and the search; the server gets none of them.
"""
