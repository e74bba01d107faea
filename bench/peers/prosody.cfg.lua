-- Debian's module list less tls, dialback, limits and s2s; PostgreSQL for everything, the archive (mod_muc_mam) on for every room.
admins = { }
pidfile = "@DIRECTORY@/prosody.pid"
data_path = "@DIRECTORY@/data"
network_backend = "epoll"
interfaces = { "127.0.0.1" }
network_settings = { nagle = false } -- on by default: with it the 99th percentile in C is 40 ms
local_interfaces = { "127.0.0.1" }
c2s_ports = { @PORT@ }
legacy_ssl_ports = { }
s2s_ports = { }
http_ports = { } https_ports = { }
component_ports = { }
modules_enabled = {
  "disco"; "roster"; "saslauth"; "blocklist"; "bookmarks"; "carbons"; "pep"; "private"; "smacks";
  "vcard4"; "vcard_legacy"; "csi_simple"; "ping"; "register"; "time"; "uptime"; "version"; "posix";
}
modules_disabled = { "s2s"; "tls"; "http" }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
authentication = "internal_hashed"
allow_registration = false
default_storage = "sql"
sql = { driver = "PostgreSQL"; host = "127.0.0.1"; port = @DATABASE_PORT@; database = "prosody"; username = "bench"; password = "bench" }
archive_expires_after = "1w"
log = { { levels = { min = "warn" }; to = "console" } }
VirtualHost "localhost"
Component "conference.localhost" "muc"
  modules_enabled = { "muc_mam" }
  muc_log_by_default = true
  muc_log_all_rooms = true
  log_all_rooms = true
  muc_room_locking = false
  muc_room_default_public = true
  muc_room_default_history_length = 20
