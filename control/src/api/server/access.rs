//! What a caller may: the one place where it is looked at.
//!
//! In: requests with their [`Caller`]. Out: those that may be. Never: a resource that has to think of it: `GET` is for
//! readers, every other method for writers.

use axum::extract::Request;
use axum::http::header::ORIGIN;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::caller::{Caller, Who};
use super::desk::turn_away;
use crate::config::Role;

pub(super) async fn check(request: Request, next: Next) -> Response {
    match refused(&request) {
        Some(error) => turn_away(request, StatusCode::FORBIDDEN, &error).await,
        None => next.run(request).await,
    }
}

fn refused(request: &Request) -> Option<String> {
    let is_reading = matches!(*request.method(), Method::GET | Method::HEAD);
    let caller = request.extensions().get::<Caller>();
    let Some((caller, role)) = caller.and_then(|caller| Some((caller, caller.role?))) else {
        return Some(without_role(caller));
    };
    // A page that a browser shows may send what needs no answer, with the certificate of who looks at it.
    if !is_reading && request.headers().contains_key(ORIGIN) {
        return Some("changes are not taken from a browser's pages".into());
    }
    if is_reading || role == Role::Write {
        return None;
    }
    let writers = match caller.who {
        Who::Local { .. } => "by this socket nothing can be changed: ask by api.sock",
        Who::Certificate(_) => {
            "this certificate's role is `read`: `roles` of `api.tls` can make it `write`"
        }
    };
    Some(writers.into())
}

fn without_role(caller: Option<&Caller>) -> String {
    match caller {
        Some(Caller {
            who: Who::Certificate(name),
            ..
        }) => format!(
            "no name of this certificate has a role, not {name}: `roles` of `api.tls` gives them"
        ),
        _ => "nobody knows who asks".into(),
    }
}
