//! Connections that came by an uplink: to the API with certificates, to metrics without.
//!
//! In: streams of the uplinks' own stacks, which have looked at who may connect. Out: the same requests as by any other
//! door, with the uplink that they came by. Never: one without a certificate that the CA vouches for at the API; a role
//! for where somebody comes from.

use std::sync::Arc;

use tokio::net::UnixStream;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::caller::Caller;
use super::crowd::{Crowd, DOOR, SHARE, Whose};
use super::doors::{HANDSHAKE, HANDSHAKES, Tcp, of_certificate};
use super::{connection, scrape};
use crate::api::Requester;
use crate::api::arrivals::{Arrival, Wanted};
use crate::config::Name;

/// Serves connections as they come; `tls` is what handshakes are done with, and a new one ends connections that began
/// with the one before.
pub(super) async fn serve(
    mut arrivals: UnboundedReceiver<Arrival>,
    tls: watch::Receiver<Option<Tcp>>,
    router: axum::Router,
    requester: Requester,
) {
    let (crowd, strangers) = (
        Crowd::new(DOOR, SHARE),
        Crowd::new(HANDSHAKES, HANDSHAKES / 2),
    );
    let readers = scrape::Readers::new(requester);
    while let Some(arrival) = arrivals.recv().await {
        let Arrival {
            wanted,
            uplink,
            remote,
            stream,
        } = arrival;
        let Ok(stream) = UnixStream::from_std(stream) else {
            continue;
        };
        let whose = Whose::at(remote.ip());
        if wanted == Wanted::Metrics {
            readers.admit(stream, whose);
            continue;
        }
        let Some(stranger) = strangers.place(whose.clone()) else {
            continue;
        };
        let (crowd, mut tls, router) = (crowd.clone(), tls.clone(), router.clone());
        let tcp = tls.borrow_and_update().clone();
        tokio::spawn(async move {
            let shaken = shake(tcp, stream, uplink).await;
            drop(stranger);
            let place = crowd.place(whose);
            if let (Some((stream, caller)), Some(_place)) = (shaken, place) {
                connection::serve(stream, caller, router, tls).await;
            }
        });
    }
}

/// Who comes in with a certificate; `None` without one that the CA vouches for.
async fn shake(
    tcp: Option<Tcp>,
    stream: UnixStream,
    uplink: Name,
) -> Option<(tokio_rustls::server::TlsStream<UnixStream>, Caller)> {
    let tcp = tcp?;
    let acceptor = TlsAcceptor::from(Arc::clone(&tcp.tls.config));
    let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
    let stream = shaken.ok()?.ok()?;
    let caller = of_certificate(&tcp, stream.get_ref().1)?;
    let uplink = Some(uplink);
    Some((stream, Caller { uplink, ..caller }))
}
