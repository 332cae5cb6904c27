//! Keys: their material, their records and their use.
