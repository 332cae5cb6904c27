//! `/users*` and `/namespaces*`

use casemate_api::body::Created;
use casemate_api::body::users::{
    NamespaceItem, NamespaceQuota, NewNamespaceQuota, NewPassphrase, NewUser, User, UserItem,
};
use casemate_api::{NamespaceId, Passphrase, Tag, UserId};

use crate::error::Error;
use crate::media::JSON;
use crate::request::Changed;
use crate::retry::Repeat;
use crate::session::Session;

/// Calls of `/users`.
pub struct Users<'a>(&'a Session);

/// Calls of `/namespaces`.
pub struct Namespaces<'a>(&'a Session);

impl Session {
    /// Calls of `/users`.
    pub fn users(&self) -> Users<'_> {
        Users(self)
    }

    /// Calls of `/namespaces`.
    pub fn namespaces(&self) -> Namespaces<'_> {
        Namespaces(self)
    }
}

impl Users<'_> {
    /// `GET /users`, sorted.
    pub fn list(&self) -> Result<Vec<UserItem>, Error> {
        self.0.get_json("/users")
    }

    /// `POST /users`: in the caller's namespace; the HSM chooses the name.
    pub fn create(&self, user: &NewUser) -> Result<Created, Error> {
        self.0.post_json("/users", user, Repeat::IfNotStarted)
    }

    /// `POST /users/{namespace}~`: in that namespace; the HSM chooses the name.
    pub fn create_in(&self, namespace: &NamespaceId, user: &NewUser) -> Result<Created, Error> {
        self.0.post_json(&format!("/users/{namespace}~"), user, Repeat::IfNotStarted)
    }

    /// `PUT /users/{user}`
    pub fn create_as(&self, id: &UserId, user: &NewUser) -> Result<(), Error> {
        self.0.put_json(&format!("/users/{id}"), user).map(drop)
    }

    /// `GET /users/{user}`
    pub fn read(&self, id: &UserId) -> Result<User, Error> {
        self.0.get_json(&format!("/users/{id}"))
    }

    /// `DELETE /users/{user}`
    pub fn delete(&self, id: &UserId) -> Result<(), Error> {
        self.0.delete(&format!("/users/{id}"))
    }

    /// `POST /users/{user}/passphrase`. It takes effect at once, so sessions of this user have to log in again.
    pub fn set_passphrase(&self, id: &UserId, passphrase: Passphrase) -> Result<(), Error> {
        self.0.post(&format!("/users/{id}/passphrase"), &NewPassphrase { passphrase }).map(drop)
    }

    /// `GET /users/{user}/tags`, sorted. Only Operators have tags.
    pub fn tags(&self, id: &UserId) -> Result<Vec<String>, Error> {
        self.0.get_json(&format!("/users/{id}/tags"))
    }

    /// `PUT /users/{user}/tags/{tag}`
    pub fn add_tag(&self, id: &UserId, tag: &Tag) -> Result<Changed, Error> {
        self.0.put(&format!("/users/{id}/tags/{tag}"), JSON, b"")
    }

    /// `DELETE /users/{user}/tags/{tag}`
    pub fn remove_tag(&self, id: &UserId, tag: &Tag) -> Result<(), Error> {
        self.0.delete(&format!("/users/{id}/tags/{tag}"))
    }
}

impl Namespaces<'_> {
    /// `GET /namespaces`, sorted.
    pub fn list(&self) -> Result<Vec<NamespaceItem>, Error> {
        self.0.get_json("/namespaces")
    }

    /// `PUT /namespaces/{namespace}`. From then on only its own Administrators manage its users and keys.
    pub fn create(&self, id: &NamespaceId) -> Result<(), Error> {
        self.0.put(&format!("/namespaces/{id}"), JSON, b"").map(drop)
    }

    /// `GET /namespaces/{namespace}/quota`
    pub fn quota(&self, id: &NamespaceId) -> Result<NamespaceQuota, Error> {
        self.0.get_json(&format!("/namespaces/{id}/quota"))
    }

    /// `PUT /namespaces/{namespace}/quota`
    pub fn set_quota(&self, id: &NamespaceId, quota: NewNamespaceQuota) -> Result<(), Error> {
        self.0.put_json(&format!("/namespaces/{id}/quota"), &quota).map(drop)
    }

    /// `DELETE /namespaces/{namespace}`, with all its keys.
    pub fn delete(&self, id: &NamespaceId) -> Result<(), Error> {
        self.0.delete(&format!("/namespaces/{id}"))
    }
}
