//! The requests that a store makes, in the messages of etcd.

use bytes::Bytes;

use crate::proto::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::proto::request_op::Request;
use crate::proto::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest};

/// A guard: `key` was last written at `revision`; 0: it does not exist.
pub fn at_revision(key: impl Into<Bytes>, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key: key.into(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// A guard: no key starts with `prefix`.
pub fn none_below(prefix: &[u8]) -> Compare {
    // All keys of the range must have been created at revision 0, and none has been.
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: first(prefix),
        range_end: prefix_end(prefix),
        target_union: Some(TargetUnion::CreateRevision(0)),
    }
}

/// Writes a row. With a `lease` other than 0 it is removed when that ends.
pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: i64) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), lease, ..PutRequest::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

/// Removes a row. It is no error if it does not exist.
pub fn delete(key: impl Into<Bytes>) -> RequestOp {
    let delete = DeleteRangeRequest { key: key.into(), range_end: Bytes::new(), prev_kv: false };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

/// Reads inside of a transaction.
pub fn read(range: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(range)) }
}

/// A transaction inside of another one, with guards of its own, which see the state before the outer one.
pub fn nested(txn: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(txn)) }
}

/// Reads one row.
pub fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest { key: key.into(), ..RangeRequest::default() }
}

/// Reads the rows whose keys start with `prefix`, in order, at most `limit` of them (0: all).
pub fn prefix(prefix: &[u8], limit: i64) -> RangeRequest {
    RangeRequest { key: first(prefix), range_end: prefix_end(prefix), limit, ..RangeRequest::default() }
}

pub(crate) fn watch(prefix: &[u8], start: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: first(prefix),
        range_end: prefix_end(prefix),
        start_revision: start,
        progress_notify: true,
        fragment: true,
        ..WatchCreateRequest::default()
    }
}

/// The empty key does not exist in etcd: the first one is a zero byte.
fn first(prefix: &[u8]) -> Bytes {
    Bytes::copy_from_slice(if prefix.is_empty() { &[0] } else { prefix })
}

/// The end of a range of all keys that start with `prefix`. If no key is behind them, that is a zero byte, which stands for
/// the end of all keys.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

/// Whether a transaction may write.
pub(crate) fn writes(txn: &TxnRequest) -> bool {
    operations(txn).any(|operation| match operation {
        Request::RequestRange(_) => false,
        Request::RequestTxn(inner) => writes(inner),
        Request::RequestPut(_) | Request::RequestDeleteRange(_) => true,
    })
}

/// Whether a transaction only has reads that one member answers from what it knows.
pub(crate) fn is_serializable(txn: &TxnRequest) -> bool {
    operations(txn).all(|operation| match operation {
        Request::RequestRange(range) => range.serializable,
        Request::RequestTxn(inner) => is_serializable(inner),
        Request::RequestPut(_) | Request::RequestDeleteRange(_) => false,
    })
}

fn operations(txn: &TxnRequest) -> impl Iterator<Item = &Request> {
    txn.success.iter().chain(&txn.failure).filter_map(|operation| operation.request.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end(b"ab").as_ref(), b"ac");
        assert_eq!(prefix_end(b"a\xff").as_ref(), b"b");
        assert_eq!(prefix_end(b"\xff\xff").as_ref(), [0]);
        assert_eq!(prefix_end(b"").as_ref(), [0]);
        assert_eq!(prefix(b"", 0).key.as_ref(), [0]);
    }

    #[test]
    fn a_write_is_found_in_every_branch_and_depth() {
        let with = |success, failure| TxnRequest { compare: Vec::new(), success, failure };
        let local = RangeRequest { serializable: true, ..get("k") };
        assert!(!writes(&with(vec![read(get("k"))], vec![])) && !is_serializable(&with(vec![read(get("k"))], vec![])));
        assert!(is_serializable(&with(vec![read(local.clone())], vec![nested(with(vec![read(local)], vec![]))])));
        for write in [put("k", "v", 0), delete("k"), nested(with(vec![], vec![put("k", "v", 0)]))] {
            let txn = with(vec![read(get("k"))], vec![write]);
            assert!(writes(&txn) && !is_serializable(&txn));
        }
    }
}
