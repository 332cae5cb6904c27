//! What paths name. Ids are parsed here, so that raw text does not get any further, and the handler receives what was
//! found, so that a missing object is reported before the body is decoded.

use std::sync::Arc;
use std::time::Duration;

use casemate_api::limits::LIST_PAGE_ROWS;
use casemate_api::{IdError, KeyId, NamespaceId, Tag, UserId};
use casemate_core::identity::caller::Caller;
use casemate_core::identity::users::{UserAccess, UserTarget};
use casemate_core::keys::usable::Key;
use casemate_core::rows::index::Search;
use casemate_core::rows::path::{NamespaceNumber, Uid};
use casemate_core::rows::table::Row;
use casemate_core::rows::user::UserRecord;
use casemate_core::{Error, Hsm};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};

use super::context::RequestContext;
use super::endpoint::{Find, FindReachable, OperationalGuard, PhaseAccess};
use crate::observe::metrics::Metrics;
use crate::update::Updates;

/// The error for the malformed path parameter `name`.
fn malformed(name: &'static str) -> impl Fn(IdError) -> Error {
    move |why| Error::invalid_field(name, why.to_string())
}

fn first(context: &RequestContext) -> &str {
    let [first, _] = &context.ids;
    first
}

fn second(context: &RequestContext) -> &str {
    let [_, second] = &context.ids;
    second
}

/// A path without ids.
pub struct Nothing;

impl<C: PhaseAccess> Find<C> for Nothing {
    type Found = ();
    async fn find(&self, _: &C, _: &C::Caller, _: &RequestContext) -> Result<(), Error> {
        Ok(())
    }
}

/// The HSM itself: for the endpoint that ends the phase in which it is called, and for what exists in every phase.
pub struct TheHsm;

impl<C: PhaseAccess> Find<C> for TheHsm {
    type Found = Arc<Hsm>;
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<Arc<Hsm>, Error> {
        Ok(context.hsm.clone())
    }
}

/// The range of audit records requested by the query.
pub struct Records {
    /// The HSM; the audit log exists in every phase.
    pub hsm: Arc<Hsm>,
    /// Number of the first record; `None`: the oldest.
    pub from: Option<u64>,
    /// Number of the last record; `None`: the newest.
    pub to: Option<u64>,
}

/// Records of the audit log, selected by the query.
pub struct AuditRange;

impl<C: PhaseAccess> Find<C> for AuditRange {
    type Found = Records;
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<Records, Error> {
        Ok(Records { hsm: context.hsm.clone(), from: number(context, "from")?, to: number(context, "to")? })
    }
}

fn number(context: &RequestContext, name: &'static str) -> Result<Option<u64>, Error> {
    let Some((_, value)) = parameters(context).find(|(given, _)| *given == name) else { return Ok(None) };
    let number = value.parse().ok().filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
    number.map(Some).ok_or_else(|| Error::invalid_field(name, format!("{name} must be the number of a record.")))
}

/// The client's address, for the endpoint that counts failed attempts itself.
pub struct Address;

impl<C: PhaseAccess> Find<C> for Address {
    type Found = std::net::IpAddr;
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<std::net::IpAddr, Error> {
        Ok(context.address)
    }
}

/// The metrics of this server, and the monotonic time.
pub struct ServerMetrics;

impl<C: PhaseAccess> Find<C> for ServerMetrics {
    type Found = (Arc<Metrics>, Duration);
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<Self::Found, Error> {
        Ok((context.metrics.clone(), context.now()))
    }
}

/// The HSM and its software updates.
pub struct TheUpdates;

impl<C: PhaseAccess> Find<C> for TheUpdates {
    type Found = (Arc<Hsm>, Arc<Updates>);
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<Self::Found, Error> {
        Ok((context.hsm.clone(), context.updates.clone()))
    }
}

/// The HSM, the metrics of this server and the monotonic time.
pub struct HsmAndMetrics;

impl<C: PhaseAccess> Find<C> for HsmAndMetrics {
    type Found = (Arc<Hsm>, Arc<Metrics>, Duration);
    async fn find(&self, _: &C, _: &C::Caller, context: &RequestContext) -> Result<Self::Found, Error> {
        Ok((context.hsm.clone(), context.metrics.clone(), context.now()))
    }
}

/// An existing key in the caller's scope. For a change, as the store has it: another node may have put it in the place of one that
/// is still in the cache.
pub struct ExistingKey;

async fn existing_key(op: &OperationalGuard, caller: &Caller, context: &RequestContext) -> Result<Key, Error> {
    let id = KeyId::parse(first(context)).map_err(malformed("key"))?;
    let expected = uid(context)?;
    let key = op.keys().of(caller.scope()?).get(&id).await?.ok_or_else(Error::not_found)?;
    expected_only(key, expected)
}

/// The key, unless the query says that another one is meant, which had this id before: as if that were gone.
fn expected_only(key: Key, expected: Option<Search>) -> Result<Key, Error> {
    if expected.is_none_or(|uid| key.is_meant_by(&uid)) { Ok(key) } else { Err(Error::not_found()) }
}

impl Find<OperationalGuard> for ExistingKey {
    type Found = Key;
    const IDS: &'static [&'static str] = &["{key}"];
    async fn find(&self, op: &OperationalGuard, caller: &Caller, context: &RequestContext) -> Result<Key, Error> {
        if !context.spec.changes() {
            return existing_key(op, caller, context).await;
        }
        let id = KeyId::parse(first(context)).map_err(malformed("key"))?;
        let expected = uid(context)?;
        let key = op.keys().of(caller.scope()?).get_stored(&id).await?.ok_or_else(Error::not_found)?;
        expected_only(key, expected)
    }
}

/// The id of a key that may or may not exist, for `PUT`.
pub struct KeyTarget;

impl Find<OperationalGuard> for KeyTarget {
    type Found = KeyId;
    const IDS: &'static [&'static str] = &["{key}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<KeyId, Error> {
        KeyId::parse(first(context)).map_err(malformed("key"))
    }
}

/// A key that may or may not exist, and a tag.
pub struct KeyAndTag;

impl Find<OperationalGuard> for KeyAndTag {
    type Found = (KeyId, Tag);
    const IDS: &'static [&'static str] = &["{key}", "{tag}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<(KeyId, Tag), Error> {
        Ok((
            KeyId::parse(first(context)).map_err(malformed("key"))?,
            Tag::parse(second(context)).map_err(malformed("tag"))?,
        ))
    }
}

/// Which keys are listed, and what of them.
pub struct Listing {
    /// Prefix of their ids; empty: all.
    pub prefix: String,
    /// Only keys that the caller may use.
    pub usable: bool,
    /// Only keys that all of these mean; first that which means the fewest.
    pub searches: Vec<Search>,
    /// Whether the list shows more than their ids.
    pub details: bool,
    /// Only keys whose ids are behind this one, which need not exist.
    pub after: Option<KeyId>,
    /// The most keys that one page has; `None`: the list is not cut into pages.
    pub limit: Option<usize>,
    /// The query without `after`, for the reference to the next page.
    pub query: String,
    /// `If-None-Match`
    pub known: Option<String>,
}

/// What cannot be in a header, or would end the reference there (RFC 8288 §3). Nothing else is encoded anew.
const IN_REFERENCES: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>');

impl Listing {
    fn of(context: &RequestContext, prefix: String) -> Result<Self, Error> {
        let given = |wanted: &str| parameters(context).any(|(name, _)| name == wanted);
        let others = context.query.as_deref().unwrap_or_default().split('&');
        let others: Vec<_> = others.filter(|pair| pair.split('=').next() != Some("after")).collect();
        Ok(Self {
            // Lists by prefix know `label` only, as NetHSM's.
            usable: prefix.is_empty() && given("filter"),
            searches: uid(context)?.into_iter().chain(label(context)?).collect(),
            details: given("details"),
            after: after(context)?,
            limit: limit(context)?,
            query: utf8_percent_encode(&others.join("&"), IN_REFERENCES).to_string(),
            known: context.conditions().if_none_match.map(str::to_owned),
            prefix,
        })
    }
}

/// All keys in the caller's scope, filtered by the query.
pub struct AllKeys;

impl Find<OperationalGuard> for AllKeys {
    type Found = Listing;
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<Listing, Error> {
        Listing::of(context, String::new())
    }
}

/// One key, or all keys whose ids start with the text before a `*`.
pub enum KeyOrPrefix {
    /// One key.
    One(Key),
    /// All keys with this prefix.
    Prefix(Listing),
}

/// A key id, or a prefix followed by `*`.
pub struct KeyOrPrefixOf;

impl Find<OperationalGuard> for KeyOrPrefixOf {
    type Found = KeyOrPrefix;
    const IDS: &'static [&'static str] = &["{key}"];
    async fn find(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        context: &RequestContext,
    ) -> Result<KeyOrPrefix, Error> {
        let Some(prefix) = first(context).strip_suffix('*') else {
            return existing_key(op, caller, context).await.map(KeyOrPrefix::One);
        };
        let prefix = KeyId::parse(prefix).map_err(malformed("key"))?.to_string();
        Listing::of(context, prefix).map(KeyOrPrefix::Prefix)
    }
}

fn parameters(context: &RequestContext) -> impl Iterator<Item = (&str, &str)> {
    let pairs = context.query.as_deref().unwrap_or_default().split('&');
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn parameter<'a>(context: &'a RequestContext, wanted: &str) -> Option<&'a str> {
    parameters(context).find(|(name, _)| *name == wanted).map(|(_, value)| value)
}

fn after(context: &RequestContext) -> Result<Option<KeyId>, Error> {
    let Some(value) = parameter(context, "after") else { return Ok(None) };
    let id = percent_decode(value.as_bytes()).decode_utf8_lossy();
    KeyId::parse(&id)
        .map(Some)
        .map_err(|why| Error::invalid_field("after", format!("after must be the id of a key: {why}")))
}

fn limit(context: &RequestContext) -> Result<Option<usize>, Error> {
    let Some(value) = parameter(context, "limit") else { return Ok(None) };
    let number = value.parse().ok().filter(|number| (1..=LIST_PAGE_ROWS).contains(number));
    let number = number.filter(|_| value.bytes().all(|byte| byte.is_ascii_digit()));
    number.map(Some).ok_or_else(|| {
        Error::invalid_field("limit", format!("limit must be a number of keys from 1 to {LIST_PAGE_ROWS}."))
    })
}

/// A label, or the beginning of labels and `*`. One that is itself at the end of a label is written `%2A`.
fn label(context: &RequestContext) -> Result<Option<Search>, Error> {
    let Some(value) = parameter(context, "label") else { return Ok(None) };
    let beginning = value.strip_suffix('*');
    let bytes: Vec<u8> = percent_decode(beginning.unwrap_or(value).replace('+', " ").as_bytes()).collect();
    let label = String::from_utf8(bytes).map_err(|_| Error::invalid_field("label", "Label is not valid UTF-8"))?;
    casemate_core::keys::check_label(&label)?;
    Ok(Some(if beginning.is_some() { Search::LabelBeginning(label) } else { Search::Label(label) }))
}

fn uid(context: &RequestContext) -> Result<Option<Search>, Error> {
    let Some(value) = parameter(context, "uid") else { return Ok(None) };
    let mut uid = Uid::default();
    let whole = base16ct::mixed::decode(value, &mut uid).is_ok_and(|bytes| bytes.len() == value.len() / 2);
    if !whole || value.len() != 2 * uid.len() {
        return Err(Error::invalid_field("uid", "uid must be 32 hexadecimal digits."));
    }
    Ok(Some(Search::Uid(uid)))
}

/// An existing user that the caller may reach. Its id is checked together with rights, before the rest of the head.
pub struct ExistingUser(pub UserAccess);

/// A found user.
pub struct FoundUser {
    /// The checked right to reach it.
    pub target: UserTarget,
    /// The user.
    pub row: Arc<Row<UserRecord>>,
}

async fn reach_user(
    op: &OperationalGuard,
    caller: &Caller,
    context: &RequestContext,
    access: UserAccess,
) -> Result<UserTarget, Error> {
    let id = UserId::parse(first(context)).map_err(malformed("user"))?;
    op.users().reach(caller, id, access).await
}

impl FindReachable<OperationalGuard> for ExistingUser {
    type Reached = UserTarget;
    type Found = FoundUser;
    const IDS: &'static [&'static str] = &["{user}"];
    fn check_id(&self, context: &RequestContext) -> Result<(), Error> {
        UserId::parse(first(context)).map(drop).map_err(malformed("user"))
    }
    async fn reach(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        context: &RequestContext,
    ) -> Result<UserTarget, Error> {
        reach_user(op, caller, context, self.0).await
    }
    async fn find(
        &self,
        op: &OperationalGuard,
        _: &Caller,
        target: UserTarget,
        _: &RequestContext,
    ) -> Result<FoundUser, Error> {
        let row = op.user(&target.id).await?.ok_or_else(Error::not_found)?;
        Ok(FoundUser { target, row })
    }
}

/// A user that the caller may reach and that may or may not exist, and a tag.
pub struct UserAndTag(pub UserAccess);

impl FindReachable<OperationalGuard> for UserAndTag {
    type Reached = UserTarget;
    type Found = (UserTarget, Tag);
    const IDS: &'static [&'static str] = &["{user}", "{tag}"];
    fn check_id(&self, context: &RequestContext) -> Result<(), Error> {
        UserId::parse(first(context)).map(drop).map_err(malformed("user"))
    }
    async fn reach(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        context: &RequestContext,
    ) -> Result<UserTarget, Error> {
        reach_user(op, caller, context, self.0).await
    }
    async fn find(
        &self,
        _: &OperationalGuard,
        _: &Caller,
        target: UserTarget,
        context: &RequestContext,
    ) -> Result<(UserTarget, Tag), Error> {
        Ok((target, Tag::parse(second(context)).map_err(malformed("tag"))?))
    }
}

/// The id of a user to create. Whether the caller may create it is checked after the body, as in the contract.
pub struct NewUserId;

impl Find<OperationalGuard> for NewUserId {
    type Found = UserId;
    const IDS: &'static [&'static str] = &["{user}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<UserId, Error> {
        UserId::parse(first(context)).map_err(malformed("user"))
    }
}

/// The namespace of a user to create whose name the HSM chooses: `namespace~`.
pub struct NewUserNamespace;

impl Find<OperationalGuard> for NewUserNamespace {
    type Found = NamespaceId;
    const IDS: &'static [&'static str] = &["{user}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<NamespaceId, Error> {
        let namespace = first(context).strip_suffix('~').ok_or_else(|| {
            Error::invalid_field(
                "user",
                "To create a user with a picked name in a namespace, the path ends in /users/<namespace>~",
            )
        })?;
        NamespaceId::parse(namespace).map_err(malformed("user"))
    }
}

/// The id of a namespace that may or may not exist.
pub struct NamespaceTarget;

impl Find<OperationalGuard> for NamespaceTarget {
    type Found = NamespaceId;
    const IDS: &'static [&'static str] = &["{namespace}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<NamespaceId, Error> {
        NamespaceId::parse(first(context)).map_err(malformed("namespace"))
    }
}

/// A member of the cluster, which may or may not exist: only etcd knows.
pub struct MemberTarget;

/// The member that a path names.
pub struct NamedMember {
    /// The HSM, which knows the cluster.
    pub hsm: Arc<Hsm>,
    /// Its id as given.
    pub id: String,
}

impl Find<OperationalGuard> for MemberTarget {
    type Found = NamedMember;
    const IDS: &'static [&'static str] = &["{member}"];
    async fn find(&self, _: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<NamedMember, Error> {
        Ok(NamedMember { hsm: context.hsm.clone(), id: first(context).to_owned() })
    }
}

/// An existing namespace.
pub struct ExistingNamespace;

/// A found namespace.
pub struct FoundNamespace {
    /// Its name.
    pub id: NamespaceId,
    /// Its number; a later namespace of the same name has another.
    pub number: NamespaceNumber,
}

impl Find<OperationalGuard> for ExistingNamespace {
    type Found = FoundNamespace;
    const IDS: &'static [&'static str] = &["{namespace}"];
    async fn find(&self, op: &OperationalGuard, _: &Caller, context: &RequestContext) -> Result<FoundNamespace, Error> {
        let id = NamespaceId::parse(first(context)).map_err(malformed("namespace"))?;
        let row = op.namespaces().get(&id).await?.ok_or_else(Error::not_found)?;
        Ok(FoundNamespace { id, number: row.record.number })
    }
}

/// An existing namespace: any for root callers, otherwise the caller's own.
pub struct OwnNamespace;

impl FindReachable<OperationalGuard> for OwnNamespace {
    type Reached = ();
    type Found = NamespaceId;
    const IDS: &'static [&'static str] = &["{namespace}"];
    async fn reach(&self, _: &OperationalGuard, caller: &Caller, context: &RequestContext) -> Result<(), Error> {
        match caller.scope()?.namespace() {
            Some(own) if own.as_str() != first(context) => Err(Error::Forbidden(None)),
            Some(_) | None => Ok(()),
        }
    }
    async fn find(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        (): (),
        context: &RequestContext,
    ) -> Result<NamespaceId, Error> {
        Ok(Find::find(&ExistingNamespace, op, caller, context).await?.id)
    }
}

/// An existing key in the caller's scope, and the metrics that count its use.
pub struct ExistingKeyToUse;

impl Find<OperationalGuard> for ExistingKeyToUse {
    type Found = (Key, Arc<Metrics>);
    const IDS: &'static [&'static str] = &["{key}"];
    async fn find(
        &self,
        op: &OperationalGuard,
        caller: &Caller,
        context: &RequestContext,
    ) -> Result<Self::Found, Error> {
        Ok((existing_key(op, caller, context).await?, context.metrics.clone()))
    }
}
