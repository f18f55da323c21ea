//! The frame of a page: its head, its style, its title.
//!
//! In: a title, what stands below it, markup. Out: HTML that needs nothing else, light or dark as the reader's browser is,
//! and on paper. Never: a script, a font or a picture from elsewhere.

use super::words::escaped;

const STYLE: &str = include_str!("page.css");

/// A whole page of `body`, which is markup; the title and what stands below it are not.
#[must_use]
pub fn page(title: &str, below: &str, body: &str) -> String {
    let (title, below) = (escaped(title), escaped(below));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head><body><main><h1>{title}</h1>\
         <p class=\"when\">{below}</p>{body}</main></body></html>\n"
    )
}
