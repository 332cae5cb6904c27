//! Messages of errors that clients distinguish, because they decide whether a request may be repeated.

/// With `412`: not available in this state of the HSM. It is checked before anything else in a request; every other
/// message with `412` is about the request.
pub const WRONG_STATE: &str = "Service not available";
/// With `503`: too much is running. Nothing was changed, and nothing was begun except, at most, the use of a key.
pub const BUSY: &str = "The HSM is busy. Try again.";
/// With `503`: the store of this node is being replaced, or the node is joining a cluster. Nothing was begun.
pub const STORE_HELD: &str =
    "Nothing can be changed at this node now, because its data is being moved or it is joining a cluster. Try again.";
/// With `503`: the node goes on without a majority, for which this request is none. Nothing was begun.
pub const ONLY_USES: &str =
    "This node reaches no majority of its cluster, and until it does only uses and reads keys. Try another node.";
/// With `507`: only requests that free space are carried out.
pub const DISK_FULL: &str =
    "The disk of the HSM is nearly full, so nothing can be added. Delete keys, or give it more room.";
/// With `503`: only one of these may run. Nothing was begun.
pub const STORE_CLAIMED: &str = "A restore or a move of the store is running. Try again when it is over.";
/// With `503`: this client has used up its share of memory. Nothing was begun.
pub const TOO_MANY_BODIES: &str = "Too many large bodies at once. Try again.";
/// Sent with the reply to a member that is made a node of its own.
pub const FORCED_NEW: &str = "This node reboots on its own, with the data that it had received. Changes that had reached only other members are lost. Reset the other members before they join it.";
/// The same, if it was joining a cluster.
pub const JOIN_GIVEN_UP: &str = "This node has given up joining a cluster, and reboots with its own data from before.";
/// Sent with the reply to a restore that can be undone.
pub const RESTORE_CAN_BE_UNDONE: &str = "The HSM is Locked. The unlock passphrase of the backup opens it; until that was used once, the former one undoes the restore.";
