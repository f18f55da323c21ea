//! Files that include others: what comes of them, and every mistake with the file that it is in.

#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::{Running, run, stderr, stdout};
use culvert::api::bodies::ApplyBody;
use culvert::config::{self, Config, Disk, Report, Texts};
use culvert::state::Applied;
use proptest::prelude::*;

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PUBLIC: [&str; 2] = [
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=",
    "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=",
];

/// A folder of files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        files
            .iter()
            .for_each(|(name, text)| folder.write(name, text));
        folder
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn load(&self) -> Result<(Config, Report), Report> {
        config::load(&self.0.path().join("main.yaml"))
    }

    /// The configuration, without the file that it was read from.
    fn config(&self) -> Config {
        let (config, _) = self.load().map_err(|report| report.render(false)).unwrap();
        Config {
            source: "x".into(),
            ..config
        }
    }

    /// What is told, with the folder left out.
    fn told(&self) -> String {
        let (Ok((_, report)) | Err(report)) = self.load();
        let folder = format!("{}/", self.0.path().display());
        report.render(false).replace(&folder, "")
    }

    #[track_caller]
    fn tells(&self, lines: &[&str]) {
        let told = self.told();
        for line in lines {
            assert!(told.contains(line), "no {line:?} in\n{told}");
        }
        assert_eq!(
            told.matches(": error: ").count() + told.matches(": warning: ").count(),
            1,
            "{told}"
        );
    }
}

fn peer(name: &str, key: &str, place: u8) -> String {
    format!("      {name}: {{public_key: \"{key}\", allowed_ips: 10.{place}.0.0/16}}\n")
}

const TUNNEL: &str = "tunnels:
  wg0:
    uplink: u
    listen_port: 1
    private_key_file: k
";

/// What stands in five files, in one.
#[test]
fn sections_of_many_files_are_put_together_by_name() {
    let (one, two) = (peer("p1", PUBLIC[0], 1), peer("p2", PUBLIC[1], 2));
    let networks =
        "networks:\n  n: {gateway: 10.9.0.1/24, tunnel: wg0}\n  m: {gateway: 10.8.0.1/24}\n";
    let port = |name: &str, place: u8| {
        format!(
            "  {name}: {{network: n, mac: \"52:54:00:00:00:0{place}\", addresses: 10.9.0.{place}}}\n"
        )
    };
    let whole = format!(
        "version: 1\nnode: x\nuplinks: {{u: {{driver: udp}}}}\n{TUNNEL}    peers:\n{one}{two}{networks}ports:\n{}{}{}",
        port("vm1", 2),
        port("vm2", 3),
        port("vm3", 4),
    );
    let alone = Folder::new(&[("main.yaml", &whole), ("k", KEY)]);
    let main = "version: 1\nnode: x\ninclude: [wg.yaml, tenants]\nuplinks: {u: {driver: udp}}\nnetworks:\n";
    let many = Folder::new(&[
        ("main.yaml", main),
        // Its key file is beside it.
        (
            "wg.yaml",
            &format!(
                "include: below/peers.yaml\n{}",
                TUNNEL.replace(": k", ": below/k")
            ),
        ),
        ("below/k", KEY),
        (
            "below/peers.yaml",
            &format!("tunnels:\n  wg0:\n    peers:\n{one}"),
        ),
        // In the order of names, whatever the disk's.
        (
            "tenants/b.yaml",
            &format!(
                "version: 1\nports:\n{}{}x-own: 1\n",
                port("vm2", 3),
                port("vm3", 4)
            ),
        ),
        (
            "tenants/a.yaml",
            &format!(
                "{networks}ports:\n{}tunnels:\n  wg0:\n    peers:\n{two}",
                port("vm1", 2)
            ),
        ),
        ("tenants/c.yml", "nonsense: ["),
        ("tenants/.a.yaml", "nonsense: ["),
        ("tenants/deeper/d.yaml", "nonsense: ["),
    ]);
    let mut expected = alone.config();
    let found = many.config();
    let key = &found.tunnels[0].private_key_file;
    assert!(key.ends_with("below/k"), "{key:?}");
    expected.tunnels[0].private_key_file.clone_from(key);
    assert_eq!(found, expected);
    assert_eq!(many.told(), "");
}

#[test]
fn a_mistake_is_told_with_the_file_that_it_is_in() {
    let main = "version: 1\ninclude:\n  - a.yaml\nnetworks: {n: {gateway: 10.9.0.1/24}}\n";
    let with = |text: &str| Folder::new(&[("main.yaml", main), ("a.yaml", text)]);
    with("ports:\n  vm1: {driver: tun, network: n, addresses: 10.9.0.2, quards: off}\n").tells(&[
        "a.yaml:2:55: error: unknown key `quards`",
        "2 |   vm1: {driver: tun, network: n, addresses: 10.9.0.2, quards: off}",
    ]);
    with("ports:\n\tvm1: {}\n").tells(&["a.yaml:2:1: error: a tab"]);
    with("[1]").tells(&["a.yaml:1:1: error: the file is a list, expected a map"]);
    with("version: 2").tells(&["a.yaml:1:10: error: `version` of the file is `2`"]);
    // Of two files, whichever is named second.
    with("networks:\n  n: {gateway: 10.8.0.1/24}\n").tells(&[
        "a.yaml:2:3: error: a second network named `n`",
        "the first stands in line 4 of main.yaml",
    ]);
    let twice = Folder::new(&[
        (
            "main.yaml",
            "version: 1\nnode: x\ninclude: a.yaml\nnetworks: {}\n",
        ),
        ("a.yaml", "node: y\n"),
    ]);
    twice.tells(&[
        "a.yaml:1:1: error: `node` stands twice in the file",
        "line 2 of main.yaml already",
    ]);
    // Both have more than peers.
    let tunnels = format!(
        "version: 1\ninclude: a.yaml\nuplinks: {{u: {{driver: udp}}}}\n{TUNNEL}networks: {{n: {{gateway: 10.9.0.1/24, tunnel: wg0}}}}\n"
    );
    let second = format!("{TUNNEL}    peers:\n{}", peer("p1", PUBLIC[0], 1));
    Folder::new(&[("main.yaml", &tunnels), ("a.yaml", &second), ("k", KEY)]).tells(&[
        "a.yaml:2:3: error: a second tunnel named `wg0`",
        "line 5 of main.yaml",
    ]);
    // The same peer, and the same key under another name.
    let peers = |peer: &str| format!("tunnels:\n  wg0:\n    peers:\n{peer}");
    let first = tunnels.replace(
        "networks:",
        &format!("    peers:\n{}networks:", peer("p1", PUBLIC[0], 1)),
    );
    let with =
        |peer: String| Folder::new(&[("main.yaml", &first), ("a.yaml", &peers(&peer)), ("k", KEY)]);
    with(peer("p1", PUBLIC[1], 2)).tells(&[
        "a.yaml:4:7: error: a second peer named `p1`",
        "line 10 of main.yaml",
    ]);
    with(peer("p2", PUBLIC[0], 2)).tells(&[
        "a.yaml:4:24: error: a second peer with that public key",
        "line 10 of main.yaml",
    ]);
    with(peer("p2", PUBLIC[1], 1)).tells(&[
        "a.yaml:4:85: error: `allowed_ips` of peer `p2` has 10.1.0.0/16",
        "line 10 of main.yaml",
    ]);
}

#[test]
fn includes_that_can_not_be_are_told_with_their_place() {
    let one = |include: &str| {
        Folder::new(&[
            (
                "main.yaml",
                &format!("version: 1\nnetworks: {{}}\ninclude: {include}\n"),
            ),
            ("a/x.yaml", ""),
        ])
    };
    one("b.yaml").tells(&[
        "main.yaml:3:10: error: `b.yaml` can't be included",
        "No such file",
    ]);
    one("a/*.yaml").tells(&[
        "main.yaml:3:10: error",
        "expected the folder itself, whose *.yaml are included: `a`",
    ]);
    one("{a: b}").tells(&["main.yaml:3:10: error: `include` is a map, expected a list of paths"]);
    one("[a, [b]]").tells(&["main.yaml:3:14: error: a path of `include` is a list"]);
    one("a\ninclude: a").tells(&[
        "main.yaml:4:1: error: `include` stands twice",
        "line 3 already",
    ]);
    one("[a, a/x.yaml]").tells(&[
        "main.yaml:3:14: error: `a/x.yaml` is included twice",
        "line 3 of main.yaml already",
    ]);
    one("main.yaml").tells(&["main.yaml:3:10: error: `main.yaml` includes itself"]);
    let empty = one("a");
    fs::remove_file(empty.0.path().join("a/x.yaml")).unwrap();
    empty.tells(&["main.yaml:3:10: warning: the folder `a` has no *.yaml"]);
    let fifo = one("f");
    nix::unistd::mkfifo(&fifo.0.path().join("f"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fifo.tells(&["main.yaml:3:10: error: `f` can't be included", "not a file"]);

    let ring = Folder::new(&[
        ("main.yaml", "version: 1\nnetworks: {}\ninclude: a/a.yaml\n"),
        ("a/a.yaml", "include: ../b.yaml"),
        ("b.yaml", "include: main.yaml"),
    ]);
    ring.tells(&[
        "a/../b.yaml:1:10: error: `a/../main.yaml` includes itself",
        "main.yaml includes a/a.yaml includes a/../b.yaml includes a/../main.yaml: remove one",
    ]);
    let nested = Folder::new(&[
        ("main.yaml", "version: 1\nnetworks: {}\ninclude: 1.yaml\n"),
        ("5.yaml", ""),
    ]);
    for level in 1..5 {
        nested.write(
            &format!("{level}.yaml"),
            &format!("include: {}.yaml", level + 1),
        );
    }
    nested.tells(&[
        "4.yaml:1:10: error: `5.yaml` is included too deep",
        "4 levels deep",
    ]);
    nested.write("4.yaml", "ports: {}");
    assert_eq!(nested.told(), "");
}

/// As ConfigMaps of Kubernetes are mounted.
#[test]
fn links_are_followed() {
    let folder = Folder::new(&[
        ("main.yaml", "version: 1\ninclude: tenants\n"),
        (
            "tenants/..1/a.yaml",
            "networks: {n: {gateway: 10.9.0.1/24}}",
        ),
    ]);
    let tenants = folder.0.path().join("tenants");
    symlink("..1", tenants.join("..data")).unwrap();
    symlink("..data/a.yaml", tenants.join("a.yaml")).unwrap();
    assert_eq!(folder.config().networks.len(), 1);
}

/// The daemon opens nothing for the command; it is the command that expands.
#[test]
fn what_is_included_travels_with_the_file() {
    let folder = Folder::new(&[
        ("main.yaml", "version: 1\nnode: x\ninclude: [a.yaml]\n"),
        ("a.yaml", "networks: {n: {gateway: 10.9.0.1/24}}"),
    ]);
    let main = folder.0.path().join("main.yaml");
    let path = main.to_str().unwrap();
    let check = |path| {
        std::process::Command::new(env!("CARGO_BIN_EXE_culvert"))
            .args(["check", path])
            .output()
    };
    let output = check(path).unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("1 network"), "{}", stdout(&output));
    let running = Running::start(Ok(Applied::default()));
    let output = run(&["apply", path], &running.run_dir);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(running.applied.recv().unwrap().networks.len(), 1);
    folder.write("a.yaml", "networks: {n: {gatway: 10.9.0.1/24}}");
    let output = run(&["apply", path], &running.run_dir);
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    assert!(
        told.contains("a.yaml:1:16: error: unknown key `gatway`"),
        "{told}"
    );
    let client = culvert::api::client::Client::new(&running.run_dir);
    // The text alone.
    let body = ApplyBody {
        path: main.clone(),
        text: fs::read_to_string(&main).unwrap(),
        ..ApplyBody::default()
    };
    let Err(culvert::api::client::ClientError::Refused(refusal)) = client.apply(&body) else {
        panic!("not refused");
    };
    let report = refusal.report;
    assert!(report.contains("main.yaml:3:11: error: `"), "{report}");
    assert!(report.contains("did not come along"), "{report}");
    assert!(report.contains("the API opens no file"), "{report}");
}

/// Names of things in one file or in some, however they are spread.
fn spread() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(0..4_u8, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each network in a file of its own choice: all are there, in the order of the files.
    #[test]
    fn things_spread_over_files_are_all_there(files in spread()) {
        let text = |file: u8| {
            let here = files.iter().enumerate().filter(|(_, at)| **at == file);
            let lines = here.map(|(n, _)| format!("  n{n}: {{gateway: 10.{n}.0.1/24}}\n"));
            format!("networks:\n{}", lines.collect::<String>())
        };
        let main = format!("version: 1\nnode: x\ninclude: [1.yaml, 2.yaml, 3.yaml]\n{}", text(0));
        let folder = Folder::new(&[("main.yaml", &main)]);
        (1..4).for_each(|file| folder.write(&format!("{file}.yaml"), &text(file)));
        let names: Vec<_> = folder.config().networks.iter().map(|it| it.name.to_string()).collect();
        let mut expected: Vec<_> = files.iter().enumerate().collect();
        expected.sort_by_key(|(n, at)| (**at, *n));
        let expected: Vec<_> = expected.iter().map(|(n, _)| format!("n{n}")).collect();
        prop_assert_eq!(names, expected);
    }

    /// Whatever a text includes, reading ends, and says something of what is no configuration.
    #[test]
    fn any_includes_end(
        lists in prop::collection::vec(prop::collection::vec("[a-c]|[a-c]/|\\.|\\.\\./[a-c]|\\*", 0..4), 3),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (name, list) in ["a", "b", "c"].iter().zip(&lists) {
            let text = format!("include: {list:?}\nnetworks: {{n: {{gateway: 10.0.0.1/24}}}}\n");
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::write(folder.path().join("d.yaml"), "version: 1\ninclude: [a, b, c]\n").unwrap();
        let path = folder.path().join("d.yaml");
        let texts = Texts::read(&path).unwrap();
        prop_assert!(texts.included.len() <= 64);
        match config::parse_texts(&texts, &Disk) {
            Ok(_) => {}
            Err(report) => prop_assert!(!report.render(false).is_empty()),
        }
        let sent: Texts = serde_json::from_str(&serde_json::to_string(&texts).unwrap()).unwrap();
        prop_assert_eq!(sent, texts);
    }

    /// Texts as a client may make them up.
    #[test]
    fn any_texts_that_are_sent_end(
        texts in prop::collection::vec(("[a-c]", prop::collection::vec("[a-c]", 0..4)), 0..6),
    ) {
        let included = texts.iter().map(|(path, list)| config::Included {
            path: path.into(),
            files: vec![config::SourceText { path: path.into(), text: format!("include: {list:?}") }],
            hindrance: None,
        });
        let texts = Texts {
            path: "a".into(),
            text: "version: 1\ninclude: [a, b, c]\nnetworks: {}\n".into(),
            included: included.collect(),
        };
        let (Ok((_, report)) | Err(report)) = config::parse_texts(&texts, &Disk);
        let _ = report.render(false);
    }
}

#[test]
fn a_relative_path_begins_at_its_file() {
    let texts = Texts::read(Path::new("/nowhere/c.yaml")).unwrap_err();
    assert!(
        texts
            .render(false)
            .starts_with("/nowhere/c.yaml: error: can't read"),
        "{}",
        texts.render(false)
    );
}

/// Nobody writes to the fifo: whoever waited would wait for ever.
#[test]
fn a_fifo_is_no_configuration() {
    let folder = Folder::new(&[("main.yaml", "version: 1\ninclude: fifo\n")]);
    let fifo = folder.0.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(folder.told().contains("not a file"), "{}", folder.told());
    let told = Texts::read(&fifo).unwrap_err().render(false);
    assert!(told.contains("can't read the file: not a file"), "{told}");
}

#[test]
fn a_key_file_that_is_included_is_not_shown() {
    let folder = Folder::new(&[
        ("main.yaml", "version: 1\ninclude: [key, keys]\n"),
        ("key", &format!("{KEY}\n")),
        ("keys", &format!("{} {KEY}\n", PUBLIC[0])),
    ]);
    let told = folder.told();
    assert!(told.contains("expected a map"), "{told}");
    assert!(!told.contains(KEY), "{told}");
}
