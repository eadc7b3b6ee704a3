//! Literal bytes.
