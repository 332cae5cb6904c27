//! The endpoint table: one entry per endpoint, from which authorisation can be read.
//!
//! Routing, refusals, the OpenAPI document, the policy listing and the policy test are all derived from this table.

use casemate_api::Action::*;
use casemate_api::State::*;
use casemate_api::body::keys::{self as key_bodies, DistinguishedName};
use casemate_api::body::{
    Created, cluster as cluster_bodies, config as config_bodies, system as system_bodies, users as user_bodies,
};
use casemate_core::identity::caller::CallerScope::{Anywhere, Root};
use casemate_core::identity::users::UserAccess::{Manage, Passphrase, Read};
use serde_json::{Map, Value};

use super::access::{failed_to_unlock_holder, operational, public};
use super::decode::{Types, fallible_json, ignored, import, json, long_json, none, octets, pem, stream, untyped_json};
use super::endpoint::Intent::{IfPossible, Never, Proven};
use super::endpoint::Media::{JsonLines, Octets, Pem, Prometheus};
use super::endpoint::{Endpoint, delete, get, post, put};
use super::find::*;
use super::handlers::{audit, backup, cluster, config, diagnose, health, keys, lock, namespaces, system, tls, users};
use super::represent::{OfCertificate, OfKey, OfLogging, OfNetwork, OfUnattendedBoot, OfUser, Tagged, TheTlsChain};

/// All endpoints, in the order of the API document.
#[rustfmt::skip]
pub fn table() -> Vec<Endpoint> {
    const ALWAYS: &[casemate_api::State] = &[Unprovisioned, Locked, Operational, Failed];
    const NOT_OPERATIONAL: &[casemate_api::State] = &[Unprovisioned, Locked, Failed];
    vec![
        // method, path                 who, per state                                         find                 body            handler
        get("/info",                    public(ALWAYS),                                        Nothing,                              health::info).gives::<system_bodies::Info>(200).etag().head(),
        get("/health/alive",            public(&[Unprovisioned, Locked]),                      Nothing,                              health::alive).answers(200).no_cache().head(),
        get("/health/ready",            public(&[Operational]),                                Nothing,                              health::ready).answers(200).no_cache().head(),
        get("/health/state",            public(ALWAYS),                                        Nothing,                              health::state).gives::<system_bodies::HealthState>(200).no_cache().head(),
        get("/health/diagnose",         operational(System, Root).or(NOT_OPERATIONAL),         Nothing,                              diagnose::diagnose).gives::<system_bodies::Diagnosis>(200).no_cache().head().without_majority(),
        get("/metrics",                 operational(Metrics, Anywhere),                        ServerMetrics,                              health::metrics).gives::<Map<String, Value>>(200).no_cache().head().without_majority(),
        get("/metrics/prometheus",      operational(Metrics, Anywhere),                        HsmAndMetrics,                           health::prometheus).answers(200).media(Prometheus).no_cache().head().without_majority(),

        post("/provision",              public(&[Unprovisioned]),                              Nothing,             untyped_json(), lock::provision).no_cache(),
        post("/unlock",                 public(&[Locked]),                                     Address,             fallible_json(), lock::unlock).no_cache().intent(Proven),
        post("/lock",                   operational(System, Root),                             TheHsm,              none(),         lock::lock).no_cache().intent(IfPossible).without_majority(),
        post("/random",                 operational(Random, Anywhere),                         Nothing,             untyped_json(), system::random).gives::<system_bodies::Random>(200).no_cache().without_majority(),

        get("/keys",                    operational(KeyRead, Anywhere),                        AllKeys,                              keys::list).gives::<key_bodies::KeyList>(200).lists().without_majority(),
        post("/keys",                   operational(KeyManage, Anywhere),                      Nothing,             import(),       keys::import).gives::<Created>(201).exists(400),
        post("/keys/generate",          operational(KeyManage, Anywhere),                      ServerMetrics,             json(),         keys::generate).gives::<Created>(201).exists(400).no_cache(),
        get("/keys/{key}",              operational(KeyRead, Anywhere),                        KeyOrPrefixOf,                        keys::read).gives::<key_bodies::Key>(200).etag().without_majority(),
        put("/keys/{key}",              operational(KeyManage, Anywhere),                      Tagged(KeyTarget, OfKey), import(), keys::import_as).exists(400),
        delete("/keys/{key}",           operational(KeyManage, Anywhere),                      Tagged(ExistingKey, OfKey),           keys::delete),
        get("/keys/{key}/public.pem",   operational(KeyRead, Anywhere),                        ExistingKey,                          keys::public_pem).answers(200).media(Pem).etag().without_majority(),
        post("/keys/{key}/csr.pem",     operational(KeyRead, Anywhere),                        ExistingKey,         untyped_json::<DistinguishedName>(), keys::csr).answers(200).media(Pem).no_cache().intent(Never).without_majority(),
        post("/keys/{key}/decrypt",     operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::decrypt).gives::<key_bodies::Decrypted>(200).no_cache().without_majority(),
        post("/keys/{key}/encrypt",     operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::encrypt).gives::<key_bodies::Encrypted>(200).no_cache().without_majority(),
        post("/keys/{key}/sign",        operational(KeyUse, Anywhere),                         ExistingKeyToUse,    long_json(),    keys::sign).gives::<key_bodies::Signature>(200).no_cache().without_majority(),
        get("/keys/{key}/cert",         operational(KeyRead, Anywhere),                        ExistingKey,                          keys::certificate).answers(200).media(Octets).etag().without_majority(),
        put("/keys/{key}/cert",         operational(KeyManage, Anywhere),                      Tagged(KeyTarget, OfCertificate), octets(), keys::set_certificate).answers(201).media(Octets),
        delete("/keys/{key}/cert",      operational(KeyManage, Anywhere),                      Tagged(ExistingKey, OfCertificate),   keys::delete_certificate).media(Octets),
        put("/keys/{key}/label",        operational(KeyManage, Anywhere),                      KeyTarget,           json(),         keys::set_label).no_cache(),
        delete("/keys/{key}/label",     operational(KeyManage, Anywhere),                      ExistingKey,                          keys::delete_label).no_cache(),
        post("/keys/{key}/move",        operational(KeyManage, Anywhere),                      ExistingKey,         untyped_json(), keys::rename).gives::<Created>(200).no_cache(),
        put("/keys/{key}/restrictions/tags/{tag}",    operational(KeyManage, Anywhere),        KeyAndTag,           ignored(),      keys::add_tag).no_cache(),
        delete("/keys/{key}/restrictions/tags/{tag}", operational(KeyManage, Anywhere),        KeyAndTag,                            keys::remove_tag).no_cache(),

        post("/cluster/force-new",      failed_to_unlock_holder(),                             Nothing,             none(),         cluster::force_new).no_cache().intent(IfPossible),
        post("/cluster/join",           operational(System, Root).or(&[Unprovisioned]),        Address,             untyped_json(), cluster::join).no_cache().intent(Proven),
        delete("/cluster",              operational(System, Root),                             TheHsm,                               cluster::dissolve),
        get("/cluster/members",         operational(System, Root),                             TheHsm,                               cluster::members).gives::<Vec<cluster_bodies::ClusterMember>>(200),
        post("/cluster/members",        operational(System, Root),                             TheHsm,              untyped_json(), cluster::invite).gives::<cluster_bodies::Invitation>(201).no_cache(),
        put("/cluster/members/{member}", operational(System, Root),                            MemberTarget,        untyped_json(), cluster::set_urls).no_cache(),
        delete("/cluster/members/{member}", operational(System, Root),                         MemberTarget,                         cluster::remove),
        post("/cluster/members/{member}/promote", operational(System, Root),                   MemberTarget,        none(),          cluster::promote).no_cache(),

        get("/namespaces",              operational(Namespaces, Root),                         Nothing,                              namespaces::list).gives::<Vec<user_bodies::NamespaceItem>>(200).head().lists(),
        put("/namespaces/{namespace}",  operational(Namespaces, Root),                         NamespaceTarget,     ignored(),      namespaces::create).exists(400),
        delete("/namespaces/{namespace}", operational(Namespaces, Root),                       ExistingNamespace,                    namespaces::delete),
        get("/namespaces/{namespace}/quota", operational(Namespaces, Anywhere),                OwnNamespace,                         namespaces::quota).gives::<user_bodies::NamespaceQuota>(200).no_cache(),
        put("/namespaces/{namespace}/quota", operational(Namespaces, Root),                    ExistingNamespace,   json(),         namespaces::set_quota).no_cache(),

        get("/users",                   operational(UserManage, Anywhere),                     Nothing,                              users::list).gives::<Vec<user_bodies::UserItem>>(200).lists(),
        post("/users",                  operational(UserManage, Anywhere),                     Nothing,             json(),         users::create_here).gives::<Created>(201),
        get("/users/{user}",            operational(UserRead, Anywhere),                       ExistingUser(Read),                   users::read).gives::<user_bodies::User>(200).etag(),
        put("/users/{user}",            operational(UserManage, Anywhere),                     Tagged(NewUserId, OfUser), json(),  users::create_as).answers(201),
        post("/users/{user}",           operational(UserManage, Anywhere),                     NewUserNamespace,    json(),         users::create_in).gives::<Created>(201),
        delete("/users/{user}",         operational(UserManage, Anywhere),                     Tagged(ExistingUser(Manage), OfUser), users::delete),
        post("/users/{user}/passphrase", operational(UserPassphrase, Anywhere),                ExistingUser(Passphrase), untyped_json(), users::set_passphrase).no_cache(),
        get("/users/{user}/tags",       operational(UserRead, Anywhere),                       ExistingUser(Read),                   users::tags).gives::<Vec<String>>(200).no_cache(),
        put("/users/{user}/tags/{tag}",    operational(UserManage, Anywhere),                  UserAndTag(Manage),     ignored(),   users::add_tag).no_cache(),
        delete("/users/{user}/tags/{tag}", operational(UserManage, Anywhere),                  UserAndTag(Manage),                   users::remove_tag).no_cache(),

        put("/config/unlock-passphrase", operational(Config, Root),                            Nothing,             json(),         config::set_unlock_passphrase).no_cache(),
        put("/config/backup-passphrase", operational(Config, Root),                            Nothing,             json(),         config::set_backup_passphrase).no_cache(),
        get("/config/unattended-boot",  operational(Config, Root),                             Nothing,                              config::unattended_boot).gives::<config_bodies::UnattendedBoot>(200).etag(),
        put("/config/unattended-boot",  operational(Config, Root),                             Tagged(Nothing, OfUnattendedBoot), json(), config::set_unattended_boot),
        get("/config/tls/public.pem",   operational(Config, Root),                             Nothing,                              tls::public_key).answers(200).media(Pem).etag().head(),
        get("/config/tls/cert.pem",     operational(Config, Root).or_failed_member(),          Nothing,                              tls::chain).answers(200).media(Pem).etag(),
        put("/config/tls/cert.pem",     operational(Config, Root).or_failed_member(),          TheTlsChain,         pem(),          tls::set_chain).answers(201).media(Pem),
        post("/config/tls/csr.pem",     operational(Config, Root).or_failed_member(),          Nothing,             untyped_json::<DistinguishedName>(), tls::csr).answers(200).media(Pem).no_cache().intent(Never),
        post("/config/tls/generate",    operational(Config, Root),                             Nothing,             untyped_json(), tls::generate).no_cache(),
        get("/config/tls/cluster-ca.pem", operational(Config, Root),                           Nothing,                              tls::cluster_ca).answers(200).media(Pem),
        put("/config/tls/cluster-ca.pem", operational(Config, Root),                           TheHsm,              pem(),          tls::set_cluster_ca).answers(201).media(Pem),
        get("/config/without-majority", operational(Config, Root),                             Nothing,                              config::without_majority).gives::<config_bodies::WithoutMajority>(200).no_cache(),
        put("/config/without-majority", operational(Config, Root),                             Nothing,             json(),         config::set_without_majority).no_cache(),
        get("/config/network",          operational(Config, Root),                             Nothing,                              config::network).gives::<config_bodies::Network>(200).etag(),
        put("/config/network",          operational(Config, Root),                             Tagged(Nothing, OfNetwork), json(), config::set_network),
        get("/config/logging",          operational(Config, Root),                             Nothing,                              config::logging).gives::<config_bodies::Logging>(200).etag(),
        put("/config/logging",          operational(Config, Root),                             Tagged(Nothing, OfLogging), json(), config::set_logging),
        get("/config/ntp",              operational(Config, Root),                             Nothing,                              config::ntp).gives::<config_bodies::Ntp>(200),
        put("/config/ntp",              operational(Config, Root),                             Nothing,             json(),         config::set_ntp),
        get("/config/time",             operational(Config, Root),                             TheHsm,                               config::time).gives::<config_bodies::Time>(200).no_cache(),
        put("/config/time",             operational(Config, Root),                             Nothing,             json(),         config::set_time).no_cache(),

        get("/system/info",             operational(System, Root),                             Nothing,                              system::info).gives::<system_bodies::SystemInfo>(200).etag().head(),
        post("/system/reboot",          operational(System, Root).or_failed(),                 Nothing,             none(),         system::reboot).no_cache().intent(IfPossible).without_majority(),
        post("/system/shutdown",        operational(System, Root).or(NOT_OPERATIONAL),         Nothing,             none(),         system::shutdown).no_cache().intent(IfPossible).without_majority(),
        post("/system/update",          operational(System, Root).or(&[]),                     TheUpdates,          stream(Types::Any), system::update).gives::<system_bodies::ReleaseNotes>(200).no_cache(),
        post("/system/commit-update",   operational(System, Root).or(&[]),                     TheUpdates,          none(),         system::commit_update).no_cache(),
        post("/system/cancel-update",   operational(System, Root).or(&[]),                     TheUpdates,          none(),         system::cancel_update).no_cache().intent(IfPossible),
        post("/system/backup",          operational(Backup, Root),                             Nothing,             none(),         backup::backup).answers(200).media(Octets).no_cache(),
        post("/system/restore",         operational(System, Root).or(&[Unprovisioned]),        Nothing,             stream(Types::Given), backup::restore).no_cache(),
        post("/system/factory-reset",   operational(System, Root).or_failed_alone(),           Nothing,             none(),         system::factory_reset).no_cache().intent(IfPossible),

        get("/audit",                   operational(Audit, Root),                              AuditRange,                           audit::export).answers(200).media(JsonLines).no_cache(),
        get("/audit/key.pem",           operational(Audit, Root),                              TheHsm,                               audit::key).answers(200).media(Pem).etag(),
    ]
}
