"""NewTypes for everything that could be swapped by mistake. Made at the edge (wire, store), never cast inside."""

from typing import NewType

UserId = NewType("UserId", str)  # "@name:server"
DeviceId = NewType("DeviceId", str)  # random, chosen by the client, unique in the server
RoomId = NewType("RoomId", str)  # "!" + base64url(SHA-256 of the creation event)
EventId = NewType("EventId", str)  # "$" + base64url(leaf)
FamilyId = NewType("FamilyId", str)  # one log-in session: a family of refresh tokens
PasskeyId = NewType("PasskeyId", str)  # a WebAuthn credential id, base64url
InvitationId = NewType("InvitationId", str)  # to register: names it without opening anything
RequestId = NewType("RequestId", str)  # of one HTTP request, for logs and problem details
CrashId = NewType("CrashId", str)  # a place in the code and a type of exception

Seq = NewType("Seq", int)  # position in one room's timeline, from 1; 0 is before the first event
UserSeq = NewType("UserSeq", int)  # position in one user's stream
ListVersion = NewType("ListVersion", int)  # counter of a user's device list
MailboxId = NewType("MailboxId", int)  # id of one row in a device mailbox
SendNumber = NewType("SendNumber", int)  # n: a device's own counter, names one request for ever

# The store's own surrogate keys: narrow, never on the network.
UserNumber = NewType("UserNumber", int)
DeviceNumber = NewType("DeviceNumber", int)
RoomNumber = NewType("RoomNumber", int)
