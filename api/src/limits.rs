//! Every limit of the system, named once. Sizes are bytes and times milliseconds unless the name says otherwise. Each
//! comment says who shares the limit; `docs/threat-model.md` has a table of what happens when it is reached.

/// Longest id of a key, user, namespace or URL tag, in characters. Each id has its own.
pub const ID_MAX_CHARS: usize = 128;
/// Shortest unlock, administrator and user passphrase, in bytes. Each passphrase has its own.
pub const PASSPHRASE_MIN_BYTES: usize = 10;
/// Longest unlock, administrator and user passphrase, in bytes. Each passphrase has its own.
pub const PASSPHRASE_MAX_BYTES: usize = 200;
/// Longest key label, in bytes of UTF-8. Each key has its own.
pub const LABEL_MAX_BYTES: usize = 32;
/// Maximum length of the random bytes that `/random` returns. Each request has its own.
pub const RANDOM_MAX_BYTES: usize = 1024;

/// Longest reply that is one block of memory, in bytes: as long as the longest certificate. To wipe a mebibyte takes about 0.1 ms,
/// less than [`INLINE_MAX_US`]. Of each reply by itself: nobody shares it.
pub const REPLY_UNCUT_MAX_BYTES: usize = 1 << 20;

/// Longest request target accepted (`414` above it), in characters. Each request has its own.
pub const TARGET_MAX_CHARS: usize = 2000;
/// Largest request body of an ordinary endpoint. Each request has its own.
pub const BODY_MAX_BYTES: usize = 1 << 20;
/// Largest request body of sign, decrypt and encrypt. Each request has its own.
pub const BODY_USE_MAX_BYTES: usize = 67 << 20;
/// Longest body that is processed by a thread that serves requests; longer ones are left to a worker.
/// Shared by all connections of that thread, which wait for it.
pub const BODY_INLINE_MAX_BYTES: usize = 64 << 10;
/// Longest time that a piece of work may take on a thread that serves requests, in microseconds on the machine of our
/// measurements; longer work runs on a worker.
/// Shared by all connections of that thread, which wait for it.
pub const INLINE_MAX_US: u64 = 200;
/// Longest input of a key operation that may run on such a thread; the slowest (Ed25519) takes 0.12 ms for it.
/// Shared by all connections of that thread, which wait for it.
pub const INLINE_INPUT_MAX_BYTES: usize = 32 << 10;
/// Memory for what clients send and for replies they have not read: requests in flight, bodies and copies of them,
/// replies. All clients share it, and no client (an IPv4 address or the first 64 bits of an IPv6 address) may hold more
/// than is left for others: a single one half, one of three a quarter. A request that would need more is answered
/// `503`.
pub const MEMORY_BUDGET_BYTES: usize = 512 << 20;
/// What each client gets of [`MEMORY_BUDGET_BYTES`] however much others hold, from a sixteenth of the budget that is
/// reserved for this.
/// Shared by all behind that address or network.
pub const BUDGET_FIRST_BYTES: usize = 16 << 10;
/// What each request takes of [`MEMORY_BUDGET_BYTES`] besides its head: its state, and a small body and reply.
pub const REQUEST_BYTES: usize = 8 << 10;
/// How often a body is counted: as received, as the text in it, and decoded. A reply is formed when these are gone.
/// Each request has its own.
pub const BODY_COPIES: usize = 3;
/// Minimum pace at which a client must send a body, averaged from the body's start, in bytes per second.
/// Each request has its own.
pub const BODY_PACE_BYTES_PER_S: u64 = 8 << 10;
/// Nesting of a JSON body that needs the relaxed reader; no body of the contract has more than four levels.
/// Each request has its own.
pub const JSON_RELAXED_DEPTH_MAX: usize = 32;
/// Members of such a body, all objects together; no body of the contract has more than twenty.
/// Each request has its own.
pub const JSON_RELAXED_MEMBERS_MAX: usize = 1024;
/// Maximum size of the pieces in which replies are sent. Each reply has its own.
pub const REPLY_PIECE_BYTES: usize = 64 << 10;
/// Pieces of a streamed reply that wait for a slow client. Each reply has its own.
pub const REPLY_PIECES_MAX: usize = 4;
/// What a streamed reply takes of [`MEMORY_BUDGET_BYTES`]: a page of its contents, twice. A page of a backup may be
/// larger; of these there are only [`BACKUPS_RUNNING_MAX`].
/// Each reply has its own.
pub const REPLY_STREAM_BYTES: usize = 2 << 20;
/// Minimum pace at which a client must read replies, all replies of its connection together, in bytes per second; below
/// it the connection is closed.
/// Each connection has its own.
pub const REPLY_PACE_BYTES_PER_S: u64 = BODY_PACE_BYTES_PER_S;
/// Time a client may read nothing before that pace counts. Each connection has its own.
pub const REPLY_GRACE_MS: u64 = 30_000;
/// Maximum time credit of a client for reading faster. The kernels of both sides buffer a few MiB and continue only
/// when a good part of it has been read, which takes this long at the minimum pace.
/// Each connection has its own.
pub const REPLY_CREDIT_MS: u64 = 600_000;
/// Longest pause in a body that is processed as it arrives. Each request has its own.
pub const UPLOAD_SILENCE_MS: u64 = 30_000;
/// Interval at which the rights of a caller are checked again while such a body arrives. Each request has its own.
pub const UPLOAD_LOOK_MS: u64 = 10_000;
/// Time a body may take before the pace counts. Each request has its own.
pub const BODY_GRACE_MS: u64 = 10_000;
/// Changes that run at the same time; beyond it a call is answered `503`. Shared by all users.
pub const CHANGES_RUNNING_MAX: usize = 4_096;
/// Refused logins that are logged individually, per second; more are only counted. Shared by all who are refused.
pub const REFUSALS_LOGGED_PER_S: u64 = 10;
/// Longest text of one log line, fields included; longer ones are truncated. Each line has its own.
pub const LOG_TEXT_MAX_BYTES: usize = 64 << 10;
/// Log lines that may wait for one syslog server; further ones are dropped and counted.
/// Shared by all that is logged; each server has its own.
pub const SYSLOG_WAITING_MAX: usize = 4_096;
/// Memory of the lines that wait for one syslog server. Shared by all that is logged; each server has its own.
pub const SYSLOG_WAITING_MAX_BYTES: usize = 4 << 20;
/// Longest syslog message over UDP: what a datagram can carry over IPv4. The 65535 of the contract cannot be sent.
/// Each message has its own.
pub const SYSLOG_DATAGRAM_MAX_BYTES: usize = 65_507;
/// Longest syslog message over TCP or TLS: what every receiver should accept (RFC 5425 §4.3.1).
/// Each message has its own.
pub const SYSLOG_MESSAGE_MAX_BYTES: usize = 8_192;
/// Time a syslog server has to accept a connection, and again for the TLS handshake. Each syslog server has its own.
pub const SYSLOG_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Time a syslog server may read nothing before it is connected again. Each syslog server has its own.
pub const SYSLOG_WRITE_TIMEOUT_MS: u64 = 10_000;
/// Wait before the second attempt to reach a syslog server; it doubles from attempt to attempt.
pub const SYSLOG_RETRY_MIN_MS: u64 = 250;
/// Longest wait between two attempts. Each syslog server has its own.
pub const SYSLOG_RETRY_MAX_MS: u64 = 30_000;
/// Time to send the last log lines at the end of the process. Each syslog server has its own.
pub const SYSLOG_FINISH_MS: u64 = 1_000;
/// Connections served at once by the listener for metrics. Shared by all who reach that port; one more waits.
pub const METRICS_CONNECTIONS_MAX: usize = 8;
/// Time such a connection may take, from its first byte to the end of the reply. Each connection has its own.
pub const METRICS_TIMEOUT_MS: u64 = 10_000;
/// How much of a refused request's body is still read, so that its client gets the answer. Each request has its own.
pub const DRAIN_MAX_BYTES: usize = 2 << 20;
/// How long a refused request's body is still read. Each request has its own.
pub const DRAIN_MAX_MS: u64 = 1_000;
/// Largest request head. Each request has its own.
pub const HEAD_MAX_BYTES: usize = 64 << 10;
/// Time a client has to complete a request head on a fresh connection. Each connection has its own.
pub const HEAD_TIMEOUT_MS: u64 = 15_000;
/// Time a keep-alive connection may be idle between requests. Each connection has its own.
pub const IDLE_TIMEOUT_MS: u64 = 120_000;
/// Time a client has to complete the TLS handshake. Each connection has its own.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// Connections served at once. Shared by all clients; one more waits.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Connections served at once for one IPv4 address or the first 64 bits of one IPv6 address; further ones are closed.
/// Shared by all behind that address or network.
pub const CONNECTIONS_PER_CLIENT_MAX: usize = CONNECTIONS_MAX / 4;
/// HTTP/2 streams served at once on one connection. Each connection has its own.
pub const H2_STREAMS_MAX: u32 = 128;
/// Bytes of bodies that one HTTP/2 connection may send before they are read, all its streams together. The minimum of
/// HTTP/2 (RFC 9113 §6.9.2).
/// Each connection has its own.
pub const H2_WINDOW_BYTES: u32 = 65_535;
/// Time running requests get to finish at shutdown. Shared by all requests that run then.
pub const SHUTDOWN_GRACE_MS: u64 = 10_000;
/// Time the store may be unreachable before the HSM becomes Failed, in seconds; it is checked once a second.
/// Shared by all: it is the HSM's state.
pub const STORE_AWAY_S: u32 = 60;
/// How long a row that is cached from a store with other writers may be used after everything was known to be up to date.
/// Each node has its own.
pub const STORE_CONFIRMED_MS: u64 = 1_000;
/// Time between two questions whether everything is up to date. Each node has its own.
pub const STORE_BEAT_MS: u64 = 250;
/// Time since everything was last known to be up to date after which a node uses what it has, if the HSM is set to go on without a majority.
/// A new leader is elected sooner. Each node has its own.
pub const STORE_STALE_AFTER_MS: u64 = 3_000;
/// For how long it may be set to do so, in seconds. Shared by all nodes.
pub const STALE_S: std::ops::RangeInclusive<u32> = 1..=86_400;
/// For how long it does so unless the setting says otherwise, in seconds. Shared by all nodes.
pub const STALE_DEFAULT_S: u32 = 900;
/// Time `lock` waits for the last request that still holds the Operational phase. Shared by all requests that run then.
pub const LOCK_WAIT_MS: u64 = 5_000;

/// RSA modulus that may be generated, in bits. Each key has its own.
pub const RSA_GENERATE_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;
/// Generic key that may be generated, in bits. Each key has its own.
pub const GENERIC_GENERATE_BITS: std::ops::RangeInclusive<usize> = 128..=8192;
/// Largest Generic key that may be imported: what fits an ordinary body. Each key has its own.
pub const GENERIC_IMPORT_MAX_BYTES: usize = BODY_MAX_BYTES;
/// Certificates in the server's TLS chain. Each device has its own.
pub const TLS_CHAIN_MAX_CERTIFICATES: usize = 10;
/// All certificates of the server's TLS chain together; many clients refuse a handshake message above 64 KiB.
/// Each device has its own.
pub const TLS_CHAIN_MAX_BYTES: usize = 48 << 10;
/// Longest name of a host (RFC 1035 §2.3.4). Each name has its own.
pub const HOST_NAME_MAX_BYTES: usize = 253;
/// Largest certificate stored with a key. Each key has its own.
pub const CERTIFICATE_MAX_BYTES: usize = 1 << 20;
/// Largest value of one store row, which the smallest backend determines (etcd: 1.5 MiB a request).
/// Each row has its own.
pub const STORE_VALUE_MAX_BYTES: usize = (1 << 20) + (64 << 10);
/// Guards and operations of one store transaction, which the smallest backend determines (etcd: 128).
/// Each transaction has its own.
pub const STORE_TXN_MAX_OPS: usize = 128;
/// Bytes of all paths and values of one store transaction, which the smallest backend determines (etcd: 1.5 MiB a request
/// with its encoding). Each transaction has its own.
pub const STORE_TXN_MAX_BYTES: usize = 1400 << 10;
/// Changes a store remembers for watches; a watch that falls further behind has to start over.
/// Shared by all users; each store has its own.
pub const STORE_HISTORY_EVENTS: usize = 16_384;
/// Commits that may wait for the writer of a store; beyond it they are refused.
/// Shared by all users; each store has its own.
pub const STORE_COMMITS_WAITING_MAX: usize = 4_096;
/// Reads that may wait for a reader of a store; beyond it they are refused.
/// Shared by all users; each store has its own.
pub const STORE_READS_WAITING_MAX: usize = 16_384;
/// Reads that are sent to etcd at once; others wait their turn, so that the node's own questions find no long queue there.
/// Shared by all users.
pub const ETCD_READS_SENT_MAX: usize = 256;
/// Bytes of values after which a store closes a group of commits and writes it to the disk.
/// Shared by all users; each store has its own.
pub const STORE_GROUP_MAX_BYTES: usize = 8 << 20;
/// Free space of the volume of the data folder below which transactions that add data are answered `507`. All users
/// share it; deletions, the audit log, locking and unlocking may use it up.
pub const STORE_RESERVE_BYTES: u64 = 64 << 20;
/// On small volumes the reserve is this part of the whole: one in eight. Shared by all users and both stores.
pub const STORE_RESERVE_SHARE: u64 = 8;
/// Size of a file that reserves space, as other programs may fill the volume to its last byte; half the reserve on
/// small volumes. It is deleted for the first write that needs the space, whoever caused that, and created again when
/// there is room.
/// Shared by all users and both stores.
pub const STORE_BALLAST_BYTES: u64 = 32 << 20;
/// Free space required to open or tidy up a store, or for any write; below it that file is deleted.
/// Shared by all users and both stores.
pub const STORE_WORK_BYTES: u64 = 1 << 20;
/// Wait before a store is written to again after its disk was full although the volume reported free space; it doubles
/// each time, as each failure costs a walk through the whole store. All its writes share it and are answered `507`.
pub const STORE_PAUSE_MIN_MS: u64 = 1_000;
/// Longest such wait. Shared by all writes of one store.
pub const STORE_PAUSE_MAX_MS: u64 = 60_000;
/// Minimum interval at which a store on a nearly full disk is measured for free room in its own file.
/// Shared by all writes of one store.
pub const STORE_MEASURE_MS: u64 = 30_000;

/// Rows that are read and written at once while one store is copied to another; each may be as large as [`STORE_VALUE_MAX_BYTES`]. There is
/// one copy at a time.
pub const COPY_ROWS: usize = STORE_TXN_MAX_OPS;
/// Rows changed meanwhile that are copied while nobody may write. Shared by all who write meanwhile: they
/// are refused for so long.
pub const COPY_TAIL_ROWS: usize = 100;
/// Times that rows which were changed meanwhile are copied again, before a copy is given up. Each copy has its own.
pub const COPY_ROUNDS_MAX: usize = 50;

/// Keys of an earlier version that are indexed at once, each of which may be as large as [`STORE_VALUE_MAX_BYTES`]. There is one such group
/// at a time on each node.
pub const INDEX_GROUP_ROWS: usize = 32;
/// Time between two looks at whether keys have to be indexed. There is one for each node.
pub const INDEX_LOOK_MS: u64 = 1_000;
/// Such a time after a failure. There is one for each node.
pub const INDEX_AGAIN_MS: u64 = 60_000;
/// Rows read at once while a backup is made or imported, or a namespace with a quota is counted; each may be as large as [`STORE_VALUE_MAX_BYTES`].
pub const BACKUP_PAGE_ROWS: usize = 32;
/// Backups made at the same time; each holds a snapshot of the store.
pub const BACKUPS_RUNNING_MAX: usize = 4;
/// Time from the start of a backup until its client has read it. Each backup has its own.
pub const BACKUP_MAX_MS: u64 = 3_600_000;
/// Time the client of a backup may take to read one piece, in addition to the time at [`REPLY_PACE_BYTES_PER_S`].
/// Each backup has its own.
pub const BACKUP_STALL_MS: u64 = 60_000;
/// Bytes of a part of a streamed form that are buffered before its content begins. Each request has its own.
pub const PART_HEAD_MAX_BYTES: usize = 64 << 10;
/// Longest arguments of a restore. There is one restore at a time: shared by all who may restore.
pub const RESTORE_ARGUMENTS_MAX_BYTES: usize = 1024;
/// Largest backup that is restored. There is one restore at a time: shared by all who may restore.
pub const RESTORE_MAX_BYTES: u64 = 16 << 30;
/// Size of the device entries of a backup, which are kept in memory.
/// There is one restore at a time: shared by all who may restore.
pub const RESTORE_DEVICE_MAX_BYTES: usize = 4 << 20;
/// Largest part of a staged entry: what fits one row of the store.
/// There is one restore at a time: shared by all who may restore.
pub const RESTORE_PART_BYTES: usize = 1 << 20;
/// Rows after which a restore commits what it has written.
/// There is one restore at a time: shared by all who may restore.
pub const RESTORE_GROUP_ROWS: usize = 1_000;
/// Bytes after which a restore commits what it has written.
/// There is one restore at a time: shared by all who may restore.
pub const RESTORE_GROUP_BYTES: usize = 4 << 20;

/// Time for which a failed login blocks the same user name from the same IPv4 address or IPv6 /64; the same applies to
/// attempts to unlock and, per user, to current passphrases that a change requires.
/// Shared by all who guess at that name from that address or network.
pub const LOGIN_PENALTY_MS: u64 = 1_000;
/// Attempts remembered from each of the last two periods of [`LOGIN_PENALTY_MS`]. Shared by all who log in or unlock
/// and are not known yet; none is forgotten early, so attempts beyond it are answered `429` unchecked.
pub const LOGIN_STRIKES_MAX: usize = 1 << 18;
/// Logins that are being checked at once, beside those that share the check of an equal one: each may read the store before it waits
/// for a thread that hashes. Each IPv4 address or IPv6 /64 has its own.
pub const LOGINS_CHECKED_PER_CLIENT_MAX: usize = 128;
/// Threads that hash passphrases; each run needs 16 MiB.
/// Shared by all parties (a namespace, an IPv4 address or an IPv6 /64), which take turns.
pub const KDF_THREADS_MAX: usize = 4;
/// Password hashes that may wait for a thread. Shared by all parties, which take turns; beyond it the newest of the
/// longest line, or of the line served last, is dropped, or the new one is refused; either is answered `503`.
pub const KDF_WAITING_MAX: usize = 64;
/// Parties whose last turn each kind of work remembers, at most twice this many. Beyond it the party served longest ago
/// counts as one that never was.
pub const POOL_PARTIES_REMEMBERED: usize = 16_384;
/// Memory of the cache of opened rows and keys. Shared by all namespaces; the least used are dropped.
pub const ROW_CACHE_BYTES: u64 = 1 << 30;
/// Verified credentials remembered at once. Shared by all users; a dropped user's passphrase is hashed again.
pub const CREDENTIAL_CACHE_ENTRIES: usize = 65_536;
/// Rows fetched per page while listing or sweeping. Each list has its own.
pub const LIST_PAGE_ROWS: usize = 1_000;
/// Key operations that may wait for a thread. Shared by all namespaces, which take turns; beyond it the newest of the
/// longest line is dropped, or the new one is refused; either is answered `503`.
pub const CRYPTO_WAITING_MAX: usize = 4_096;
/// Slow jobs, such as generating RSA keys, that may wait for a thread. Shared by all namespaces, which take turns, and
/// none of which has all threads; beyond it the newest of the longest line is dropped, or the new one is refused;
/// either is answered `503`.
pub const SLOW_WAITING_MAX: usize = 64;
/// Pages of backups and of a restore that may wait for a thread: one for each of [`BACKUPS_RUNNING_MAX`] and the
/// restore.
/// Shared by them alone; beyond it a page, and with it its backup, would be answered `503`.
pub const BACKUP_WAITING_MAX: usize = 16;
/// Keys whose rows are read at once for a list with details; each may be as large as [`STORE_VALUE_MAX_BYTES`]. Each list has its own.
pub const KEY_DETAILS_ROWS: usize = ETCD_GET_ROWS;
/// Lists with details that read such rows at once; others wait. What a list has read it keeps until its public keys are derived: of
/// one page at most. Shared by all namespaces.
pub const KEY_DETAILS_READS_MAX: usize = 4;
/// Bytes after which a page of a list ends that has not yet as many keys as it may have, not counting public keys. Each page has its own.
pub const LIST_PAGE_BYTES: usize = 512 << 10;
/// Rows of a list after which other requests of the same serving thread get a turn.
/// Shared by all connections of that thread.
pub const LIST_TURN_ROWS: usize = 200;
/// Interval at which counters of key use are written. Shared by all keys.
pub const COUNTER_FLUSH_MS: u64 = 3_600_000;
/// Head of an update image: signature, release notes and version. Its length fields allow up to 48 MiB.
/// There is one update at a time: shared by all Administrators of the root.
pub const UPDATE_HEAD_MAX_BYTES: usize = 4 << 20;
/// Largest update image. There is one update at a time: shared by all Administrators of the root.
pub const UPDATE_IMAGE_MAX_BYTES: u64 = 8 << 30;
/// Disk space that an update image must leave free.
/// There is one update at a time: shared by all Administrators of the root.
pub const UPDATE_RESERVE_BYTES: u64 = 256 << 20;
/// Time the command that installs an update may take.
/// There is one update at a time: shared by all Administrators of the root.
pub const UPDATE_COMMAND_MAX_MS: u64 = 600_000;

/// Records the audit log keeps; older ones are removed at the next checkpoint. Shared by all whose acts are recorded.
pub const AUDIT_RECORDS_MAX: u64 = 1_000_000;
/// Records of the audit log after which a signed checkpoint is written. Shared by all whose acts are recorded.
pub const AUDIT_CHECKPOINT_RECORDS: u64 = 1_000;
/// Time after which a checkpoint is written if there are new records. Shared by all whose acts are recorded.
pub const AUDIT_CHECKPOINT_MS: u64 = 3_600_000;
/// Time after which records that no request waits for are on the disk. Shared by all whose acts are recorded.
pub const AUDIT_FLUSH_MS: u64 = 1_000;
/// Records that may wait for the disk when no request waits for them; more are only counted.
/// Shared by all whose acts are recorded.
pub const AUDIT_WAITING_MAX: usize = 4_096;
/// Successive refusals that get a record each; more are counted. Shared by all who are refused.
pub const AUDIT_REFUSALS_ITEMISED: u32 = 10;
/// Time after which one more refusal gets a record of its own. Shared by all who are refused.
pub const AUDIT_REFUSAL_MS: u64 = 10_000;
/// Pairs of address and reason counted in one window; more are counted without their address.
/// Shared by all who are refused.
pub const AUDIT_REFUSAL_PAIRS_MAX: usize = 16;
/// Length of a window in which refusals are counted. Shared by all who are refused.
pub const AUDIT_WINDOW_MS: u64 = 1_000;
/// Maximum length of a window: during a flood windows double up to it, so that refusals cannot displace all other
/// records within months.
/// Shared by all who are refused.
pub const AUDIT_WINDOW_MAX_MS: u64 = 600_000;
/// Longest text in a record of the audit log, in characters: a path with two ids, escaped. Each record has its own.
pub const AUDIT_TEXT_MAX_CHARS: usize = 600;
/// Longest wait for the record of a change that is carried out even if it cannot be recorded. Each act has its own.
pub const AUDIT_PATIENCE_MS: u64 = 2_000;

/// Nodes of one client. Each client has its own.
pub const CLIENT_NODES_MAX: usize = 64;
/// Time for a node to accept a connection and finish the TLS handshake. Each client has its own.
pub const CLIENT_CONNECT_MS: u64 = 5_000;
/// Time for one request; in a stream, for each read and each write.
pub const CLIENT_REQUEST_MS: u64 = 30_000;
/// Time for a call with all its repetitions; streams are not limited by it. Each client has its own.
pub const CLIENT_DEADLINE_MS: u64 = 120_000;
/// Time that a client gives at least to a node which may have to move its store for a request. Each such request has its own.
pub const CLIENT_STORE_MOVE_MS: u64 = 300_000;
/// Time for a node to answer a readiness probe before it is used again. Each client has its own.
pub const CLIENT_PROBE_MS: u64 = 1_000;
/// Time for which a failed node is not used; each further failure doubles it.
pub const CLIENT_ASIDE_MS: u64 = 1_000;
/// Longest time for which a failing node is not used. Each client has its own.
pub const CLIENT_ASIDE_MAX_MS: u64 = 60_000;
/// Wait after `429`, unless the reply says otherwise. Each client has its own.
pub const CLIENT_TOO_MANY_WAIT_MS: u64 = 1_000;
/// Idle connections to one node that a client keeps open. Each client has its own.
pub const CLIENT_IDLE_CONNECTIONS: usize = 16;
/// Time a client keeps an idle connection; below [`IDLE_TIMEOUT_MS`], so that the client closes first.
/// Each client has its own.
pub const CLIENT_IDLE_MS: u64 = 30_000;
/// Addresses of one host name that a client tries. Each client has its own.
pub const CLIENT_ADDRESSES_MAX: usize = 8;
/// Largest reply that a client holds in memory: decrypted messages and lists of a million keys fit.
/// Each client has its own.
pub const CLIENT_REPLY_MAX_BYTES: u64 = 128 << 20;
/// Largest head of a reply that a client reads. Each client has its own.
pub const CLIENT_REPLY_HEAD_MAX_BYTES: usize = 64 << 10;

/// Endpoints of one etcd cluster. Shared by all who use the store.
pub const ETCD_ENDPOINTS_MAX: usize = 64;
/// Addresses of one host name of etcd that are tried. Each endpoint has its own.
pub const ETCD_ADDRESSES_MAX: usize = 8;
/// Time for an endpoint of etcd to accept a connection, finish the TLS handshake and answer a first call. Each endpoint has
/// its own.
pub const ETCD_CONNECT_MS: u64 = 1_500;
/// Time between two looks at what the endpoints of etcd tell about themselves. Shared by all who ask what is known.
pub const ETCD_LOOK_MS: u64 = 5_000;
/// Time for a call to etcd with all its attempts. Each call has its own.
pub const ETCD_CALL_MS: u64 = 5_000;
/// Time for an endpoint of etcd to answer a write. One that was handed to a leader which died then is never answered, and a new
/// leader is elected within two seconds. Each call has its own.
pub const ETCD_WRITE_MS: u64 = 2_000;
/// Time after which a connection to etcd that has not received anything is tested, while calls or watches run on it. etcd
/// closes those that do it more often than every 5 s. Each connection has its own.
pub const ETCD_PING_MS: u64 = 6_000;
/// Time for the answer to such a test. Each connection has its own.
pub const ETCD_PING_ANSWER_MS: u64 = 3_000;
/// Bytes that etcd may send ahead of what was read. Each connection has its own, and each call.
pub const ETCD_WINDOW_BYTES: u32 = 4 << 20;
/// Largest message that is read from etcd: pages of rows, parts of what a watch tells. Each call has its own.
pub const ETCD_REPLY_MAX_BYTES: usize = 64 << 20;
/// Rows, each as large as [`STORE_VALUE_MAX_BYTES`] at most, that one call reads by their keys.
/// Each call has its own.
pub const ETCD_GET_ROWS: usize = 32;
/// How often a change of etcd's members is tried that is refused only for a moment. Each change has its own.
pub const ETCD_MEMBER_TRIES: u32 = 24;
/// Time between two of these tries. Each change has its own.
pub const ETCD_MEMBER_RETRY_MS: u64 = 1_000;
/// Length of the name of a witness, and of other members beside it. Each member has its own.
pub const ETCD_MEMBER_NAME_MAX_BYTES: usize = 64;
/// Largest file that `casemated witness init` reads. Each file has its own.
pub const WITNESS_INPUT_MAX_BYTES: u64 = 1 << 20;
/// Largest data file of etcd that is read without it; etcd itself is for 8 GiB at most. Each reading has its own.
pub const ETCD_FILE_MAX_BYTES: u64 = 32 << 30;
/// Largest page of such a file, which has no more than a few rows if it is larger than the smallest. Each reading has its own.
pub const ETCD_FILE_PAGE_MAX_BYTES: u64 = 64 << 20;
/// Memory for the keys of rows in such a file that are put in order: about a million. If there are more, the file is read more
/// than once. Each reading has its own.
pub const ETCD_FILE_INDEX_MAX_BYTES: usize = 256 << 20;
/// Members, and those that were removed, which are read from such a file. Each reading has its own.
pub const ETCD_FILE_MEMBERS_MAX: usize = 65_536;
/// Largest record of the log of an etcd that is read without it. A record has one message, for which etcd has 1.5 MiB unless it is set up
/// otherwise. Each reading has its own.
pub const ETCD_LOG_RECORD_MAX_BYTES: u64 = 64 << 20;
/// Files of 64 MB of such a log. Each reading has its own.
pub const ETCD_LOG_FILES_MAX: usize = 16_384;
/// Largest message that is sent to etcd, which itself refuses more than 1.5 MiB unless it is set up otherwise. Each call has
/// its own.
pub const ETCD_REQUEST_MAX_BYTES: usize = 2 << 20;

/// Time for a node that joins a cluster to be promoted; then its client is told that it was not. Each join has its own.
pub const JOIN_MAX_S: u64 = 3_600;
/// Time for the etcd of a node that joins to get to the cluster; then the node goes back to its own data. Each join has its own.
pub const JOIN_START_MS: u64 = 30_000;
/// Time between two looks at whether a node that joins was promoted. Each join has its own.
pub const JOIN_POLL_MS: u64 = 250;
/// Members, and addresses of members, in the list with which a node joins. Each join has its own.
pub const JOIN_MEMBERS_MAX: usize = 64;
/// Most by which the clock of a node that joins may differ from that of a member. Each join has its own.
pub const JOIN_CLOCK_S: u64 = 5;
/// Time for `etcd --version` to answer. Each start of a member has its own.
pub const MEMBER_VERSION_MS: u64 = 10_000;
/// Time for the etcd of a node to end by itself when it is asked to; then it is killed. It waits 7 s for its clients. Each stop
/// has its own.
pub const MEMBER_STOP_MS: u64 = 15_000;
/// Time that the file of an etcd which has ended is waited for; reading it goes on. There is one
/// reading at a time, shared by all callers.
pub const MEMBER_FILE_MS: u64 = 3_000;
/// Time for which what it said, or that it could not be read, is not looked at again. Shared by all
/// callers.
pub const MEMBER_FILE_AGAIN_MS: u64 = 60_000;
/// Time for an etcd on the copy of a lost member's data to be ready: it reads all of it first. There is one for each node.
pub const MEMBER_RECOVER_MS: u64 = 600_000;
/// Time for the etcd of a node to tell whether it is ready. Each question has its own.
pub const MEMBER_READY_MS: u64 = 2_000;
/// Time before the etcd of a node that has ended unexpectedly is started again. It doubles each time. Each member has its own.
pub const MEMBER_PAUSE_MIN_MS: u64 = 500;
/// Longest such time. Each member has its own.
pub const MEMBER_PAUSE_MAX_MS: u64 = 30_000;
/// Time that the etcd of a node has to run until such a time begins at its shortest again. Each member has its own.
pub const MEMBER_STEADY_MS: u64 = 60_000;
/// Time between two looks at the size of the database of the etcd of a node. There is one for each node.
pub const MEMBER_UPKEEP_LOOK_MS: u64 = 10_000;
/// Turn of a member to defragment its database, in seconds, in the first half of which it begins. Members take turns, by their ids.
/// Each member has its own.
pub const MEMBER_UPKEEP_TURN_S: u64 = 120;
/// Time for etcd to defragment a small database, in seconds. Each member has its own.
pub const MEMBER_DEFRAGMENT_MIN_S: u64 = 60;
/// Bytes that etcd defragments in a second, at least. Each member has its own disk.
pub const MEMBER_DEFRAGMENT_BYTES_S: u64 = 10 << 20;
/// Records of the log of its etcd that a node keeps. Each member has its own.
pub const MEMBER_LOG_RECORDS_MAX: usize = 1024;
/// Bytes of these records. Each member has its own.
pub const MEMBER_LOG_MAX_BYTES: usize = 1 << 20;
/// Longest line of that log, in bytes; what is behind is not read. Each line has its own.
pub const MEMBER_LOG_LINE_MAX_BYTES: usize = 16 << 10;
/// Time for the etcd of a node to be ready when it founds or joins a cluster. There is one for each node.
pub const MEMBER_START_MS: u64 = 30_000;
/// Time for which a change of members waits for another one, or for a restore, to be over. Each change has its own.
pub const MEMBER_CLAIM_MS: u64 = 15_000;
/// Time between two looks at whether it is. There is one for each node.
pub const MEMBER_POLL_MS: u64 = 100;
/// Most bytes that the database of a node's etcd may have; half the memory, if that is less. Shared by all users of the cluster.
pub const MEMBER_QUOTA_MAX_BYTES: u64 = 8 << 30;
/// Time between two signs of life of the etcd that leads. Each member has its own, and all have the same.
pub const ETCD_HEARTBEAT_MS: u64 = 50;
/// Time without one after which another etcd asks to lead, and up to twice that. Each member has its own, and all have the same. Twice
/// this is less than what is left of [`STORE_CONFIRMED_MS`] when a leader is lost, which is at least [`STORE_BEAT_MS`] less
/// than that: so signatures go on while another leader is elected.
pub const ETCD_ELECTION_MS: u64 = 350;
/// Time between two looks at whether the etcd of a node is confirmed by a majority. There is one for each node.
pub const MEMBER_LOOK_MS: u64 = 500;
/// Time for a majority to confirm what the etcd of a node has. Each look has its own.
pub const MEMBER_CONFIRM_MS: u64 = 1_000;
/// Time without a confirmation after which the etcd of a node is restarted as soon as another member answers. Each member has its own.
pub const MEMBER_SILENT_MS: u64 = 10_000;
/// Time after such a restart until the next one, if none has helped. It doubles each time. Each member has its own.
pub const MEMBER_RESTART_MIN_MS: u64 = 30_000;
/// Longest such time. Each member has its own.
pub const MEMBER_RESTART_MAX_MS: u64 = 600_000;
/// Time that a majority has to confirm what a restarted etcd has until the restart has helped. Each member has its own.
pub const MEMBER_HELPED_MS: u64 = 3_000;
/// Time for other members to answer a node whose etcd has no leader. Shared by all of them.
pub const PEER_PROBE_MS: u64 = 2_000;
/// Time for a member to tell a node that is to join what it sees. Each address of each member has its own.
pub const PEER_ANSWER_MS: u64 = 5_000;
/// Size of that answer. Each has its own.
pub const PEER_ANSWER_MAX_BYTES: usize = 1 << 20;

/// Sessions that an application may have open with the PKCS#11 module. Shared by all its threads.
pub const PKCS11_SESSIONS_MAX: usize = 1 << 16;
/// Bytes that the PKCS#11 module collects of one operation in several parts, or takes at once: what the server takes in one
/// request is three quarters of [`BODY_USE_MAX_BYTES`], as base64 is longer. Each session has its own.
pub const PKCS11_INPUT_MAX_BYTES: usize = 50 << 20;
/// Attributes in a template. Each call of the PKCS#11 module has its own.
pub const PKCS11_ATTRIBUTES_MAX: usize = 1024;
/// Length of an attribute's value: certificates are at most as long as a request ([`BODY_MAX_BYTES`]). Each attribute has its own.
pub const PKCS11_VALUE_MAX_BYTES: usize = BODY_MAX_BYTES;
