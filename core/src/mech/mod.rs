//! Mechanisms: joins each row of the table to its code.
