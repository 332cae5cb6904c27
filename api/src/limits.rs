//! Every bound of the system, named once. Sizes are bytes and times milliseconds unless the name says otherwise.

/// Longest id of a key, user, namespace or URL tag, in characters.
pub const ID_MAX_CHARS: usize = 128;
/// Shortest unlock, administrator and user passphrase, in bytes.
pub const PASSPHRASE_MIN_BYTES: usize = 10;
/// Longest unlock, administrator and user passphrase, in bytes.
pub const PASSPHRASE_MAX_BYTES: usize = 200;
/// Longest key label, in bytes of UTF-8.
pub const LABEL_MAX_BYTES: usize = 32;
/// Most random bytes one call of `/random` returns.
pub const RANDOM_MAX_BYTES: usize = 1024;

/// Longest request target accepted (`414` above it), in characters.
pub const TARGET_MAX_CHARS: usize = 2000;
/// Largest request body of an ordinary endpoint.
pub const BODY_MAX_BYTES: usize = 1 << 20;
/// Largest request body of sign, decrypt and encrypt.
pub const BODY_USE_MAX_BYTES: usize = 67 << 20;
/// Bodies above this size share [`BODY_BUDGET_BYTES`]; smaller ones are always let in.
pub const BODY_SMALL_BYTES: usize = 64 << 10;
/// Longest that a piece of work may take on a thread that serves requests, in microseconds of the machine we measure on; what
/// takes longer runs on a worker. Shared by all connections of that thread: they wait meanwhile.
pub const INLINE_MAX_US: u64 = 200;
/// Longest input of a key operation that may run on such a thread; of the longest (Ed25519) that is 0.12 ms.
pub const INLINE_INPUT_MAX_BYTES: usize = 32 << 10;
/// Memory that all large request bodies may hold together; beyond it a request is answered `503`.
pub const BODY_BUDGET_BYTES: usize = 512 << 20;
/// Slowest pace at which a client may send a body, averaged from the body's start, in bytes per second.
pub const BODY_PACE_BYTES_PER_S: u64 = 8 << 10;
/// Nesting of a JSON body that needs the relaxed reader; none of the contract nests deeper than four.
pub const JSON_RELAXED_DEPTH_MAX: usize = 32;
/// Members of such a body, all objects together; none of the contract has more than twenty.
pub const JSON_RELAXED_MEMBERS_MAX: usize = 1024;
/// Pieces of a streamed reply that wait for a slow client.
pub const REPLY_PIECES_MAX: usize = 4;
/// Longest silence in a body that is taken as it comes.
pub const UPLOAD_SILENCE_MS: u64 = 30_000;
/// Time a body may take before the pace counts.
pub const BODY_GRACE_MS: u64 = 10_000;
/// Calls that change something and run at once; beyond it a call is answered `503`.
pub const CHANGES_RUNNING_MAX: usize = 4_096;
/// Refused logins written to the log one by one, per second; a flood beyond that is only counted.
pub const REFUSALS_LOGGED_PER_S: u64 = 10;
/// Longest text of one log line, fields included; what is longer is cut.
pub const LOG_TEXT_MAX_BYTES: usize = 64 << 10;
/// Log lines that may wait for one syslog server; further ones are dropped and counted.
pub const SYSLOG_WAITING_MAX: usize = 4_096;
/// Memory they may take.
pub const SYSLOG_WAITING_MAX_BYTES: usize = 4 << 20;
/// Longest syslog message over UDP: what a datagram can carry over IPv4. The contract's 65535 cannot be sent.
pub const SYSLOG_DATAGRAM_MAX_BYTES: usize = 65_507;
/// Longest syslog message over TCP or TLS: what every receiver should take (RFC 5425 §4.3.1).
pub const SYSLOG_MESSAGE_MAX_BYTES: usize = 8_192;
/// Time a syslog server has to take a connection, and again for the TLS handshake.
pub const SYSLOG_CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Time a syslog server may not read before its connection is made anew.
pub const SYSLOG_WRITE_TIMEOUT_MS: u64 = 10_000;
/// Pause before the second attempt to reach a syslog server; it doubles from attempt to attempt.
pub const SYSLOG_RETRY_MIN_MS: u64 = 250;
/// Longest pause between two attempts.
pub const SYSLOG_RETRY_MAX_MS: u64 = 30_000;
/// Time the last log lines get to leave at the end of the process.
pub const SYSLOG_FINISH_MS: u64 = 1_000;
/// Connections served at once by the listener for metrics.
pub const METRICS_CONNECTIONS_MAX: usize = 8;
/// Time such a connection may take, from its first byte to the end of the reply.
pub const METRICS_TIMEOUT_MS: u64 = 10_000;
/// Most of a refused request's body that is still read, so that its client gets to the answer.
pub const DRAIN_MAX_BYTES: usize = 2 << 20;
/// Longest that a refused request's body is still read.
pub const DRAIN_MAX_MS: u64 = 1_000;
/// Largest request head.
pub const HEAD_MAX_BYTES: usize = 64 << 10;
/// Time a client has to complete a request head on a fresh connection.
pub const HEAD_TIMEOUT_MS: u64 = 15_000;
/// Time a keep-alive connection may idle between requests.
pub const IDLE_TIMEOUT_MS: u64 = 120_000;
/// Time a client has to complete the TLS handshake.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// Connections served at once.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Connections served at once for one IPv4 address or the first 64 bits of one IPv6 address; further ones are closed.
pub const CONNECTIONS_PER_CLIENT_MAX: usize = CONNECTIONS_MAX / 4;
/// HTTP/2 streams served at once on one connection.
pub const H2_STREAMS_MAX: u32 = 128;
/// Time running requests get to finish at shutdown.
pub const SHUTDOWN_GRACE_MS: u64 = 10_000;
/// Time the store may be away before the HSM calls itself Failed, in seconds; it is looked at once a second.
pub const STORE_AWAY_S: u32 = 60;
/// Time `lock` waits for the last request that still holds the Operational phase.
pub const LOCK_WAIT_MS: u64 = 5_000;

/// RSA modulus that may be generated, in bits.
pub const RSA_GENERATE_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;
/// Generic key that may be generated, in bits.
pub const GENERIC_GENERATE_BITS: std::ops::RangeInclusive<usize> = 128..=8192;
/// Largest Generic key that may be imported: what fits an ordinary body.
pub const GENERIC_IMPORT_MAX_BYTES: usize = BODY_MAX_BYTES;
/// Most certificates of the server's TLS chain.
pub const TLS_CHAIN_MAX_CERTIFICATES: usize = 10;
/// All certificates of the server's TLS chain together; many clients refuse a handshake message above 64 KiB.
pub const TLS_CHAIN_MAX_BYTES: usize = 48 << 10;
/// Longest name of a host (RFC 1035 §2.3.4).
pub const HOST_NAME_MAX_BYTES: usize = 253;
/// Largest certificate stored with a key.
pub const CERTIFICATE_MAX_BYTES: usize = 1 << 20;
/// Largest value of one store row. The smallest backend sets it (etcd: 1.5 MiB a request).
pub const STORE_VALUE_MAX_BYTES: usize = (1 << 20) + (64 << 10);
/// Most guards and operations of one store transaction. The smallest backend sets it (etcd: 128).
pub const STORE_TXN_MAX_OPS: usize = 128;
/// Changes a store remembers for watches; a watch that falls further behind has to start over.
pub const STORE_HISTORY_EVENTS: usize = 16_384;
/// Commits that may wait for the writer of a store; beyond it they are refused.
pub const STORE_COMMITS_WAITING_MAX: usize = 4_096;
/// Reads that may wait for a reader of a store; beyond it they are refused.
pub const STORE_READS_WAITING_MAX: usize = 16_384;
/// Bytes of values after which a store closes a group of commits and writes it to the disk.
pub const STORE_GROUP_MAX_BYTES: usize = 8 << 20;

/// Rows read at once while a backup is made or imported; each may be as large as [`STORE_VALUE_MAX_BYTES`].
pub const BACKUP_PAGE_ROWS: usize = 32;
/// Backups that may be made at once; each holds a view of the store.
pub const BACKUPS_RUNNING_MAX: usize = 4;
/// Time a backup may take until its client has read it.
pub const BACKUP_MAX_MS: u64 = 3_600_000;
/// Time the client of a backup may take to read one piece.
pub const BACKUP_STALL_MS: u64 = 60_000;
/// Most of a part of a streamed form that is kept before its content begins.
pub const PART_HEAD_MAX_BYTES: usize = 64 << 10;
/// Longest arguments of a restore.
pub const RESTORE_ARGUMENTS_MAX_BYTES: usize = 1024;
/// Largest backup that is restored.
pub const RESTORE_MAX_BYTES: u64 = 16 << 30;
/// Most that the entries of one device in a backup, which are kept in memory, may take.
pub const RESTORE_DEVICE_MAX_BYTES: usize = 4 << 20;
/// Largest part of a staged entry: what fits one row of the store.
pub const RESTORE_PART_BYTES: usize = 1 << 20;
/// Rows and bytes after which what a restore writes is committed.
pub const RESTORE_GROUP_ROWS: usize = 1_000;
/// See [`RESTORE_GROUP_ROWS`].
pub const RESTORE_GROUP_BYTES: usize = 4 << 20;

/// A failed login blocks the same user name from the same address for this long.
pub const LOGIN_PENALTY_MS: u64 = 1_000;
/// Failed logins remembered at once; they are as rare as runs of the password hash, so this holds far more than one second.
pub const LOGIN_FAILURES_MAX: usize = 4_096;
/// Password hashes that may wait for a worker; beyond it a login is answered `503`.
pub const KDF_WAITING_MAX: usize = 64;
/// Memory the cache of opened rows and keys may hold.
pub const ROW_CACHE_BYTES: u64 = 1 << 30;
/// Verified credentials remembered at once.
pub const CREDENTIAL_CACHE_ENTRIES: usize = 65_536;
/// Rows fetched per page while listing or sweeping.
pub const LIST_PAGE_ROWS: usize = 1_000;
/// Key operations that may wait for a worker; beyond it they are answered `503`.
pub const CRYPTO_WAITING_MAX: usize = 4_096;
/// Jobs of seconds, such as generating RSA keys, that may wait for a worker; beyond it they are answered `503`.
pub const SLOW_WAITING_MAX: usize = 64;
/// Rows of a list after which other requests of the same serving thread have their turn.
pub const LIST_TURN_ROWS: usize = 200;
/// Counters of key use are written this often.
pub const COUNTER_FLUSH_MS: u64 = 3_600_000;
/// Head of an update image: signature, release notes and version. The fields could state up to 48 MiB.
pub const UPDATE_HEAD_MAX_BYTES: usize = 4 << 20;
/// Largest update image.
pub const UPDATE_IMAGE_MAX_BYTES: u64 = 8 << 30;
/// Room on the disk that an update image must leave.
pub const UPDATE_RESERVE_BYTES: u64 = 256 << 20;
/// Time the command that installs an update may take.
pub const UPDATE_COMMAND_MAX_MS: u64 = 600_000;

/// Records the audit log keeps; older ones are removed at the next checkpoint.
pub const AUDIT_RECORDS_MAX: u64 = 1_000_000;
/// Records of the audit log after which a signed checkpoint is written.
pub const AUDIT_CHECKPOINT_RECORDS: u64 = 1_000;
/// Time after which a checkpoint is written if there are new records.
pub const AUDIT_CHECKPOINT_MS: u64 = 3_600_000;
/// Records nobody waits for are on the disk after this time.
pub const AUDIT_FLUSH_MS: u64 = 1_000;
/// Records that may wait for the disk with nobody waiting for them; further ones are only counted.
pub const AUDIT_WAITING_MAX: usize = 4_096;
/// Refusals that get a record of their own one after the other; further ones are counted.
pub const AUDIT_REFUSALS_ITEMISED: u32 = 10;
/// Time after which one more refusal gets a record of its own.
pub const AUDIT_REFUSAL_MS: u64 = 10_000;
/// Pairs of address and reason counted in one window; what is beyond is counted without its address.
pub const AUDIT_REFUSAL_PAIRS_MAX: usize = 16;
/// Length of a window in which refusals are counted.
pub const AUDIT_WINDOW_MS: u64 = 1_000;
/// The same while a flood lasts: windows double up to this length, so that refusals cannot push everything else out of
/// the log within months.
pub const AUDIT_WINDOW_MAX_MS: u64 = 600_000;
/// Longest text in a record of the audit log, in characters: a path with two ids, escaped.
pub const AUDIT_TEXT_MAX_CHARS: usize = 600;
/// Longest wait for the record of an act that is carried out even if it cannot be recorded.
pub const AUDIT_PATIENCE_MS: u64 = 2_000;

/// Nodes that one client knows.
pub const CLIENT_NODES_MAX: usize = 64;
/// Time a client gives a node to take a connection and finish the TLS handshake.
pub const CLIENT_CONNECT_MS: u64 = 5_000;
/// Time a client gives one request; in a stream, each read and each write.
pub const CLIENT_REQUEST_MS: u64 = 30_000;
/// Time a client gives a call with all its repetitions; streams end when they end.
pub const CLIENT_DEADLINE_MS: u64 = 120_000;
/// Time a node has to say that it is ready, before it is used again.
pub const CLIENT_PROBE_MS: u64 = 1_000;
/// A node that failed is left alone this long; each further failure doubles it.
pub const CLIENT_ASIDE_MS: u64 = 1_000;
/// Longest that a failing node is left alone.
pub const CLIENT_ASIDE_MAX_MS: u64 = 60_000;
/// Time a client waits after `429`, unless the reply says otherwise.
pub const CLIENT_TOO_MANY_WAIT_MS: u64 = 1_000;
/// Connections to one node that a client keeps open between requests.
pub const CLIENT_IDLE_CONNECTIONS: usize = 16;
/// Time a client keeps a connection that it does not use; below [`IDLE_TIMEOUT_MS`], so that the client closes first.
pub const CLIENT_IDLE_MS: u64 = 30_000;
/// Addresses of one host name that a client tries.
pub const CLIENT_ADDRESSES_MAX: usize = 8;
/// Largest reply a client holds in memory: decrypted messages and lists of a million keys fit.
pub const CLIENT_REPLY_MAX_BYTES: u64 = 128 << 20;
/// Largest head of a reply that a client reads.
pub const CLIENT_REPLY_HEAD_MAX_BYTES: usize = 64 << 10;
