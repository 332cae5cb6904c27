//! Elliptic curves in the standard's encodings.
