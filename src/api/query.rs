//! Query strings: small numbers and ids, each refused by name. Unknown parameters are let through, as proxies add some.

use std::collections::HashMap;
use std::str::FromStr;

use actix_web::{HttpRequest, web};

use super::error::ApiError;
use crate::settings::ServerSettings;

/// The parameters of one request.
#[derive(Debug)]
pub struct Params(HashMap<String, String>);

impl Params {
    /// Those of `request`.
    ///
    /// # Errors
    /// 422 when they cannot be decoded, or one stands there twice.
    pub fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        Self::read(request.query_string())
    }

    fn read(query: &str) -> Result<Self, ApiError> {
        let pairs = web::Query::<Vec<(String, String)>>::from_query(query)
            .map_err(|_| ApiError::invalid("query", "cannot be decoded"))?;
        let mut params = HashMap::new();
        for (name, value) in pairs.into_inner() {
            if params.insert(name.clone(), value).is_some() {
                return Err(ApiError::invalid(name, "stands there twice"));
            }
        }
        Ok(Self(params))
    }

    /// A parameter as it was given.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// How many entries a page is to have.
    ///
    /// # Errors
    /// 422 outside 1 to `page_max`.
    pub fn limit(&self, settings: &ServerSettings) -> Result<u32, ApiError> {
        let max = settings.page_max.as_u32();
        let Some(text) = self.get("limit") else { return Ok(settings.page_default.as_u32()) };
        let limit = whole_number(text).filter(|limit| (1..=max).contains(limit));
        limit.ok_or_else(|| ApiError::invalid("limit", format!("expected a whole number from 1 to {max}")))
    }

    /// How many entries to pass over.
    ///
    /// # Errors
    /// 422 when it is no whole number.
    pub fn offset(&self) -> Result<u64, ApiError> {
        let Some(text) = self.get("offset") else { return Ok(0) };
        let offset = whole_number::<u32>(text).map(u64::from);
        offset.ok_or_else(|| ApiError::invalid("offset", "expected a whole number from 0 to 4294967295"))
    }
}

/// A number as every door takes one: digits and nothing else.
pub(super) fn whole_number<N: FromStr>(text: &str) -> Option<N> {
    // A number's own reader takes a plus sign too.
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_stands_there_twice_is_refused_and_not_chosen_from() {
        assert_eq!(Params::read("limit=20&offset=3").unwrap().get("offset"), Some("3"));
        assert_eq!(Params::read("").unwrap().get("limit"), None);
        let refused = Params::read("limit=20&x=1&limit=3").unwrap_err();
        assert!(format!("{refused:?}").contains("limit"), "{refused:?}");
    }
}
