//! `api`: who may ask and change.
//!
//! In, out, never: as [`super`].

use super::{
    Form::{self, Account, Integer, Listen, Path, Permissions, Words},
    Presence::{Default, Required},
    Table, key,
};

/// `api`.
pub(super) static API: Table = Table {
    title: "api",
    doc: "Who may ask this process and change it. A change takes effect at once: a door that closes ends its connections.",
    keys: &[
        key(
            "socket",
            Form::Table(&API_SOCKET),
            Default("the process's user and group"),
            "Whose `api.sock` in the run directory is. Who may open it may change everything: give its group to nobody whom you would not make root.",
        ),
        key(
            "readers",
            Form::Table(&API_READERS),
            Default("none"),
            "A second socket, `api-read.sock`, by which nothing can be changed.",
        ),
        key(
            "listen",
            Listen,
            Default("none"),
            "A TCP port for clients that have a certificate.",
        ),
        key(
            "tls",
            Form::Table(&API_TLS),
            Default("required with `listen`, or `api` at an uplink"),
            "Certificates of the TCP port, and of uplinks that serve the API. Files that were replaced are read by the next `apply` or SIGHUP.",
        ),
        key(
            "body_megabytes",
            Integer { min: 1, max: 1024 },
            Default("64"),
            "The largest body of a request, in MiB.",
        ),
        key(
            "key_directory",
            Path,
            Default("/etc/culvert/keys"),
            "The folder in which `key:NAME` is found, of any `…_file` of keys: the user's that runs Culvert, or root's, and closed to other writers; no link in it is followed. Clients of the API who are neither name keys so.",
        ),
    ],
};

/// `api.socket`.
pub(super) static API_SOCKET: Table = Table {
    title: "socket",
    doc: "",
    keys: &[
        key(
            "owner",
            Account,
            Default("the process's user"),
            "Who owns the socket.",
        ),
        key(
            "group",
            Account,
            Default("the process's group"),
            "The socket's group.",
        ),
        key(
            "mode",
            Permissions,
            Default("0660"),
            "The socket's permission bits.",
        ),
    ],
};

/// `api.readers`.
pub(super) static API_READERS: Table = Table {
    title: "readers",
    doc: "",
    keys: &[key(
        "group",
        Account,
        Required,
        "The group whose members may read.",
    )],
};

/// `api.tls`.
pub(super) static API_TLS: Table = Table {
    title: "tls",
    doc: "Who has no certificate of the client CA gets no connection; who has one without a role is refused.",
    keys: &[
        key(
            "certificate",
            Path,
            Required,
            "Own certificate and those between it and its CA, as PEM.",
        ),
        key(
            "key",
            Path,
            Required,
            "The certificate's private key, as PEM, in a file that only its owner can read.",
        ),
        key(
            "client_ca",
            Path,
            Required,
            "The CA of the clients' certificates, as PEM.",
        ),
        key(
            "roles",
            Words(&["read", "write"]),
            Required,
            "What each client may, by a subject alternative name of its certificate, exactly, and of the kind that it looks like (an address, a URI with its scheme, mail with an `@`, else a DNS name): `{ ops.example.net: write, \"spiffe://example.net/scrape\": read }`. A certificate with several has the most of them.",
        ),
    ],
};
