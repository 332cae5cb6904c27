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
/// Time a body may take before the pace counts.
pub const BODY_GRACE_MS: u64 = 10_000;
/// Calls that change something and run at once; beyond it a call is answered `503`.
pub const CHANGES_RUNNING_MAX: usize = 4_096;
/// Refused logins written to the log one by one, per second; a flood beyond that is only counted.
pub const REFUSALS_LOGGED_PER_S: u64 = 10;
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
/// Counters of key use are written this often.
pub const COUNTER_FLUSH_MS: u64 = 3_600_000;
