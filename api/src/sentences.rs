//! Messages of errors that clients tell apart, because what may be repeated depends on them.

/// With `412`: the HSM is in a state without this service. It is said before anything else of a request is looked at; every
/// other message with `412` is about the request.
pub const WRONG_STATE: &str = "Service not available";
/// With `503`: there is no room right now. Nothing was changed, and nothing begun but at most a key used.
pub const BUSY: &str = "The HSM is busy. Try again.";
/// With `507`: only what makes room is carried out.
pub const DISK_FULL: &str =
    "The disk of the HSM is nearly full, so nothing can be added. Delete keys, or give it more room.";
/// With `503`: there is no memory left for a body of this client, and nothing was begun.
pub const TOO_MANY_BODIES: &str = "Too many large bodies at once. Try again.";
/// What comes with the answer to a restore that can be undone.
pub const RESTORE_CAN_BE_UNDONE: &str = "The HSM is Locked. The unlock passphrase of the backup opens it; until that was used once, the former one undoes the restore.";
