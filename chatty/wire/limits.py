"""Bounds that are part of the protocol: both sides know them, no setting changes them. Documented in docs/protocol.md."""

frame_bytes_max = 262_144  # one WebSocket message, either direction's default
hello_bytes_max = 65_536  # the first message on a socket: whose it is is not known yet
ciphertext_bytes_max = 65_536  # body of one message
to_device_content_bytes_max = 65_536  # one to-device content
to_device_recipients_max = 250  # devices addressed by one request
requests_per_frame_max = 256  # a frame holds one request or a list of at most this many
send_window = 256  # n >= low + send_window is refused: send_window_full
integer_max = 2**53 - 1  # what canonical JSON and every client language can hold
cursors_per_frame_max = 500  # rooms in one `hello` or `cursors` frame
page_events_max = 500  # events in one history page
query_users_max = 500  # users in one key query
claim_devices_max = 500  # devices in one key claim
mailbox_ack_ids_max = 1_000  # ids in one mailbox_ack
message_timer_s_max = 31_622_400  # 366 days: a message expires no later than this after it was sent
retention_days_max = 3_660  # of a room's own retention
device_name_chars_max = 64
wrapped_secret_bytes_max = 4_096  # the recovery secret or the private master key, wrapped by the client
passkeys_user_max = 10  # passkeys of one user
recovery_codes_count = 10  # made at once; each is good once
passkey_bytes_max = 8_192  # of each binary part of what an authenticator made
typing_lifetime_s = 10.0  # somebody types for this long unless they say so again
typing_renew_s = 4.0  # how often one says so who goes on
typing_users_max = 20  # who is told to type in one room at once; more are passed over
presence_users_max = 500  # users that one connection may watch
presence_grain_s = 300  # what last_active is rounded down to
receipts_shown_max = 100  # receipts of one room in one frame; after hello the newest
link_uses_max = 1_000  # how often one invitation link may be good
room_links_max = 50  # links of one room that are open at once
title_chars_max = 100  # of a listed room's public title
unread_events_max = 250  # newest events of a room among which unread ones are counted
epoch_wait_s = 10.0  # a client waits this long for a Megolm key before it calls a message undecryptable
