//! Bytes as they are.

use super::{Codec, Encoded};
use crate::error::Result;
use crate::log::Payload;

/// The codec `bytes`: the payload itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Item = Payload;
    const NAME: &'static str = "bytes";

    fn encode<'a>(&self, item: &'a Payload) -> Result<Encoded<'a>> {
        Ok(Encoded { parts: vec![item.bytes().into()], aligned: 0 })
    }

    fn decode(&self, payload: &Payload) -> Result<Payload> {
        Ok(payload.clone())
    }
}
