//! The HTTP edge: bytes to requests, requests to calls of the core, answers to bytes.

pub mod body;
pub mod budget;
pub mod decode;
pub mod endpoints;
pub mod find;
pub mod gate;
pub mod handlers;
pub mod json;
pub mod multipart;
pub mod negotiate;
pub mod openapi;
mod pages;
pub mod parts;
pub mod pieces;
mod places;
pub mod reply;
pub mod route;
pub mod row;
pub mod serve;
mod trail;
pub mod upload;
