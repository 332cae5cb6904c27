//! The surface of the HSM: every endpoint is one row, and authorisation can be read off it.
//!
//! Routing, refusals, the OpenAPI document, the policy listing and the policy test are all made from this table.

use casemate_api::Action::*;
use casemate_api::State::*;
use casemate_api::body::keys::{self as key_bodies, DistinguishedName};
use casemate_api::body::{Created, config as config_bodies, system as system_bodies, users as user_bodies};
use casemate_core::caller::UserAccess::{Manage, Passphrase, Read};
use casemate_core::caller::Whence::{Anywhere, Root};
use serde_json::{Map, Value};

use super::decode::{ignored, import, json, judged_json, long_json, none, octets, untyped_json};
use super::find::*;
use super::handlers::{config, health, keys, lock, namespaces, system, users};
use super::row::Media::{Octets, Pem};
use super::row::{Row, delete, get, operational, post, public, put};

/// Every row, in the order of the API document.
#[rustfmt::skip]
pub fn table() -> Vec<Row> {
    const ALWAYS: &[casemate_api::State] = &[Unprovisioned, Locked, Operational, Failed];
    const NOT_OPERATIONAL: &[casemate_api::State] = &[Unprovisioned, Locked, Failed];
    vec![
        // method, path                 who, per state                                         find                 body            handler
        get("/info",                    public(ALWAYS),                                        Nothing,             none(),         health::info).gives::<system_bodies::Info>(200).etag().head(),
        get("/health/alive",            public(&[Unprovisioned, Locked]),                      Nothing,             none(),         health::alive).answers(200).no_cache().head(),
        get("/health/ready",            public(&[Operational]),                                Nothing,             none(),         health::ready).answers(200).no_cache().head(),
        get("/health/state",            public(ALWAYS),                                        Nothing,             none(),         health::state).gives::<system_bodies::HealthState>(200).no_cache().head(),
        get("/health/diagnose",         operational(System, Root).or(NOT_OPERATIONAL),         Nothing,             none(),         health::diagnose).gives::<system_bodies::Diagnosis>(200).no_cache().head(),
        get("/metrics",                 operational(Metrics, Anywhere),                        Figures,             none(),         health::metrics).gives::<Map<String, Value>>(200).no_cache().head(),

        post("/provision",              public(&[Unprovisioned]),                              Nothing,             untyped_json(), lock::provision).no_cache(),
        post("/unlock",                 public(&[Locked]),                                     Address,             judged_json(),  lock::unlock).no_cache(),
        post("/lock",                   operational(System, Root),                             TheHsm,              none(),         lock::lock).no_cache(),
        post("/random",                 operational(Random, Anywhere),                         Nothing,             untyped_json(), system::random).gives::<system_bodies::Random>(200).no_cache(),

        get("/keys",                    operational(KeyRead, Anywhere),                        AllKeys,             none(),         keys::list).gives::<Vec<key_bodies::KeyItem>>(200),
        post("/keys",                   operational(KeyManage, Anywhere),                      Nothing,             import(),       keys::import).gives::<Created>(201).exists(400),
        post("/keys/generate",          operational(KeyManage, Anywhere),                      Figures,             json(),         keys::generate).gives::<Created>(201).exists(400).no_cache(),
        get("/keys/{key}",              operational(KeyRead, Anywhere),                        KeyOrPrefixOf,       none(),         keys::read).gives::<key_bodies::Key>(200).etag(),
        put("/keys/{key}",              operational(KeyManage, Anywhere),                      KeySlot,             import(),       keys::import_as).exists(400),
        delete("/keys/{key}",           operational(KeyManage, Anywhere),                      ExistingKey,         none(),         keys::delete),
        get("/keys/{key}/public.pem",   operational(KeyRead, Anywhere),                        ExistingKey,         none(),         keys::public_pem).answers(200).media(Pem).etag(),
        post("/keys/{key}/csr.pem",     operational(KeyRead, Anywhere),                        ExistingKey,         untyped_json::<DistinguishedName>(), keys::csr).answers(200).media(Pem).no_cache(),
        post("/keys/{key}/decrypt",     operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::decrypt).gives::<key_bodies::Decrypted>(200).no_cache(),
        post("/keys/{key}/encrypt",     operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::encrypt).gives::<key_bodies::Encrypted>(200).no_cache(),
        post("/keys/{key}/sign",        operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::sign).gives::<key_bodies::Signature>(200).no_cache(),
        get("/keys/{key}/cert",         operational(KeyRead, Anywhere),                        ExistingKey,         none(),         keys::certificate).answers(200).media(Octets).etag(),
        put("/keys/{key}/cert",         operational(KeyManage, Anywhere),                      KeySlot,             octets(),       keys::set_certificate).answers(201).media(Octets),
        delete("/keys/{key}/cert",      operational(KeyManage, Anywhere),                      ExistingKey,         none(),         keys::delete_certificate).media(Octets),
        put("/keys/{key}/label",        operational(KeyManage, Anywhere),                      KeySlot,             json(),         keys::set_label).no_cache(),
        delete("/keys/{key}/label",     operational(KeyManage, Anywhere),                      ExistingKey,         none(),         keys::delete_label).no_cache(),
        post("/keys/{key}/move",        operational(KeyManage, Anywhere),                      ExistingKey,         untyped_json(), keys::rename).gives::<Created>(200).no_cache(),
        put("/keys/{key}/restrictions/tags/{tag}",    operational(KeyManage, Anywhere),        KeySlotAndTag,       ignored(),      keys::add_tag).no_cache(),
        delete("/keys/{key}/restrictions/tags/{tag}", operational(KeyManage, Anywhere),        KeySlotAndTag,       none(),         keys::remove_tag).no_cache(),

        get("/namespaces",              operational(Namespaces, Root),                         Nothing,             none(),         namespaces::list).gives::<Vec<user_bodies::NamespaceItem>>(200).head(),
        put("/namespaces/{namespace}",  operational(Namespaces, Root),                         NamespaceSlot,       ignored(),      namespaces::create).exists(400),
        delete("/namespaces/{namespace}", operational(Namespaces, Root),                       ExistingNamespace,   none(),         namespaces::delete),

        get("/users",                   operational(UserManage, Anywhere),                     Nothing,             none(),         users::list).gives::<Vec<user_bodies::UserItem>>(200),
        post("/users",                  operational(UserManage, Anywhere),                     Nothing,             json(),         users::create_here).gives::<Created>(201),
        get("/users/{user}",            operational(UserRead, Anywhere),                       ExistingUser(Read),  none(),         users::read).gives::<user_bodies::User>(200).etag(),
        put("/users/{user}",            operational(UserManage, Anywhere),                     NewUserId,           json(),         users::create_as).answers(201),
        post("/users/{user}",           operational(UserManage, Anywhere),                     NewUserNamespace,    json(),         users::create_in).gives::<Created>(201),
        delete("/users/{user}",         operational(UserManage, Anywhere),                     ExistingUser(Manage), none(),        users::delete),
        post("/users/{user}/passphrase", operational(UserPassphrase, Anywhere),                ExistingUser(Passphrase), untyped_json(), users::set_passphrase).no_cache(),
        get("/users/{user}/tags",       operational(UserRead, Anywhere),                       ExistingUser(Read),  none(),         users::tags).gives::<Vec<String>>(200).no_cache(),
        put("/users/{user}/tags/{tag}",    operational(UserManage, Anywhere),                  UserSlotAndTag(Manage), ignored(),   users::add_tag).no_cache(),
        delete("/users/{user}/tags/{tag}", operational(UserManage, Anywhere),                  UserSlotAndTag(Manage), none(),      users::remove_tag).no_cache(),

        put("/config/unlock-passphrase", operational(Config, Root),                            Nothing,             json(),         config::set_unlock_passphrase).no_cache(),
        get("/config/unattended-boot",  operational(Config, Root),                             Nothing,             none(),         config::unattended_boot).gives::<config_bodies::UnattendedBoot>(200).etag(),
        put("/config/unattended-boot",  operational(Config, Root),                             Nothing,             json(),         config::set_unattended_boot),

        get("/system/info",             operational(System, Root),                             Nothing,             none(),         system::info).gives::<system_bodies::SystemInfo>(200).etag().head(),
        post("/system/reboot",          operational(System, Root).or(&[Failed]),               Nothing,             none(),         system::reboot).no_cache(),
        post("/system/shutdown",        operational(System, Root).or(NOT_OPERATIONAL),         Nothing,             none(),         system::shutdown).no_cache(),
        post("/system/factory-reset",   operational(System, Root).or(&[Failed]),               Nothing,             none(),         system::factory_reset).no_cache(),
    ]
}
