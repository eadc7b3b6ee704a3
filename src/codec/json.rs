//! JSON text.

use super::{Codec, Encoded, wrong};
use crate::error::Result;
use crate::log::{Payload, WriterOptions};

/// The codec `json`: text in UTF-8, which is stored as it is. MCAP tools show it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Json;

impl Codec for Json {
    type Item = String;
    const NAME: &'static str = "json";

    fn encode<'a>(&self, item: &'a String) -> Result<Encoded<'a>> {
        Ok(Encoded { parts: vec![item.as_bytes().into()], aligned: 0 })
    }

    fn decode(&self, payload: &Payload) -> Result<String> {
        let text = std::str::from_utf8(payload.bytes());
        text.map(str::to_owned).map_err(|error| wrong(Self::NAME, "UTF-8", format!("byte {} that is not", error.valid_up_to())))
    }

    fn options(&self) -> WriterOptions {
        let mut options = WriterOptions::new(Self::NAME, Self::VERSION);
        options.encoding = Some("json".to_owned());
        options
    }
}
