//! The HTTP edge: requests in, calls into the core, responses out.

pub mod access;
mod act;
pub mod body;
pub mod budget;
mod conditions;
pub mod context;
pub mod decode;
pub mod edge;
pub mod endpoint;
pub mod endpoints;
pub mod find;
pub mod gate;
pub mod handlers;
pub mod json;
pub mod multipart;
pub mod negotiate;
pub mod openapi;
mod pages;
pub mod pieces;
pub mod reply;
pub mod represent;
mod respond;
pub mod route;
mod running_changes;
pub mod serve;
mod trail;
pub mod upload;
