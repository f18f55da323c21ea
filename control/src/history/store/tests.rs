//! What is kept, shared, expired and set aside.

use std::fs;
use std::sync::Arc;

use super::*;
use crate::config;
use crate::history::revision::Origin;

fn revision(number: u64) -> Revision {
    Revision {
        number,
        hash: number.to_string(),
        unix: number,
        user: "root".into(),
        origin: Origin::Cli,
        message: String::new(),
        outcome: Outcome::Applied,
        why: String::new(),
        path: "/etc/culvert/culvert.yaml".into(),
        restores: None,
    }
}

/// A configuration under that name.
fn told(node: &str) -> Told {
    let text = format!("version: 1\nnode: {node}\nnetworks: {{}}\n");
    let read = config::parse(&text, Path::new("/t.yaml"), &config::Disk);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    Told::of(&Arc::new(config), None)
}

fn folder() -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::own(folder.path(), 0o700).unwrap();
    (folder, directory)
}

struct Given;

impl config::KeyFiles for Given {
    fn read(&self, _: &Path) -> Result<Zeroizing<String>, config::KeyFileError> {
        Ok(Zeroizing::new("SEhI".repeat(10) + "SEk="))
    }
}

/// A configuration whose peers, each a part of its own, have these keepalives.
fn peers(keepalives: &[u16]) -> Told {
    let peers = keepalives.iter().zip(1_u8..).map(|(keepalive, number)| {
        let mut key = [number; 32];
        key[0] = 0;
        let key = crate::keys::PublicKey::from_bytes(key).to_base64();
        format!("      p{number}: {{public_key: \"{key}\", persistent_keepalive: {keepalive}s}}\n")
    });
    let text = format!(
        "version: 1\nuplinks: {{u: {{driver: udp, addresses: [127.0.0.1/8]}}}}\ntunnels:\n  t:\n    uplink: u\n    \
         listen_port: 1\n    private_key_file: k\n    peers:\n{}networks: {{n: {{gateway: 10.0.0.1/24, tunnel: t}}}}\n",
        peers.collect::<String>()
    );
    let read = config::parse(&text, Path::new("/t.yaml"), &Given);
    let (config, _) = read.map_err(|report| report.render(false)).unwrap();
    Told::of(&Arc::new(config), None)
}

fn text(told: &Told) -> String {
    config::to_yaml(told.config())
}

/// By whichever revision it came, and whatever becomes of that.
#[test]
fn what_did_not_change_is_kept_once_and_as_long_as_it_is_needed() {
    let (folder, directory) = folder();
    let parts = |number: u64| folder.path().join(format!("{FOLDER}/{number}.parts"));
    let mut store = Store::open(&directory).unwrap();
    let all: Vec<_> = [
        [25, 26, 27],
        [25, 36, 27],
        [25, 26, 27],
        [25, 36, 27],
        [45, 36, 27],
    ]
    .map(|keepalives| peers(&keepalives))
    .into();
    for (number, told) in (1..).zip(&all[..3]) {
        store.add(revision(number), told).unwrap();
    }
    let needs = |store: &Store| {
        let needs = store
            .heads
            .iter()
            .map(|it| it.needs.iter().copied().collect::<Vec<_>>());
        needs.collect::<Vec<_>>()
    };
    assert_eq!(needs(&store), [vec![], vec![1], vec![1]]);
    assert!(store.heads[1].len < store.heads[0].len);
    drop(store);
    let mut store = Store::open(&directory).unwrap();
    for (number, told) in (4..).zip(&all[3..]) {
        store.add(revision(number), told).unwrap();
    }
    assert_eq!(needs(&store)[3..], [vec![1], vec![1, 4]]);
    for (number, told) in (1..).zip(&all) {
        assert_eq!(store.content(number).unwrap().text, text(told));
    }
    store.remove(1);
    store.remove(4);
    assert!(parts(1).exists() && parts(4).exists());
    assert_eq!(store.content(5).unwrap().text, text(&all[4]));
    // It is found again, and goes with the last that needs it.
    drop(store);
    let mut store = Store::open(&directory).unwrap();
    assert_eq!(store.content(5).unwrap().text, text(&all[4]));
    store.remove(5);
    assert!(parts(1).exists() && !parts(4).exists());
    store.remove(2);
    store.remove(3);
    let files = fs::read_dir(folder.path().join(FOLDER)).unwrap();
    assert_eq!(files.count(), 0);
}

#[test]
fn nothing_is_taken_over_from_a_file_that_is_not_as_it_was() {
    let (folder, directory) = folder();
    let mut store = Store::open(&directory).unwrap();
    let (first, second) = (peers(&[25, 26]), peers(&[25, 36]));
    store.add(revision(1), &first).unwrap();
    fs::write(folder.path().join(FOLDER).join("1.parts"), "[]\n").unwrap();
    store.add(revision(2), &second).unwrap();
    assert!(store.content(1).is_err());
    assert_eq!(store.content(2).unwrap().text, text(&second));
    // What lies somewhere else than the line says is damaged.
    let path = folder.path().join(FOLDER).join("2.parts");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 5;
    bytes[last] ^= 1;
    fs::write(path, bytes).unwrap();
    assert!(store.content(2).is_err());
}

#[test]
fn old_ones_expire_and_what_is_needed_stays() {
    let (folder, directory) = folder();
    let mut store = Store::open(&directory).unwrap();
    for number in 1..=KEPT as u64 + 5 {
        assert_eq!(store.next(), number);
        store
            .add(revision(number), &told(&format!("n{number}")))
            .unwrap();
        store.expire(&[2, number]);
    }
    let kept: Vec<_> = store.revisions().map(|it| it.number).collect();
    assert_eq!(kept.len(), KEPT);
    assert_eq!(kept[..3], [2, 7, 8]);
    let files = fs::read_dir(folder.path().join(FOLDER)).unwrap();
    assert_eq!(files.count(), 2 * KEPT);
    let again = Store::open(&directory).unwrap();
    assert_eq!(again.next(), KEPT as u64 + 6);
    assert!(again.revisions().eq(store.revisions()));
    assert_eq!(
        again.content(2).unwrap().text,
        "version: 1\nnode: n2\nnetworks: {}\n"
    );
}

/// As a process leaves it that ends while it writes.
#[test]
fn what_was_not_finished_is_gone_at_the_next_start() {
    let (folder, directory) = folder();
    let mut store = Store::open(&directory).unwrap();
    store.add(revision(1), &told("n1")).unwrap();
    let path = folder.path().join(FOLDER);
    for name in ["2.parts", "2.keys", "3.json.new", "journal.new"] {
        fs::write(path.join(name), "x").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(path.join(name), mode).unwrap();
    }
    let store = Store::open(&directory).unwrap();
    assert!(store.set_aside.is_empty(), "{:?}", store.set_aside);
    assert_eq!(store.journal(), Found::Nothing);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 2);
    store.write_journal(&Journal::new(1, 1, 7)).unwrap();
    assert_eq!(store.journal(), Found::Waits(Journal::new(1, 1, 7)));
    store.end_journal().unwrap();
    assert_eq!(store.journal(), Found::Nothing);
}

/// Numbers that no revision has, and a journal that stays where it is.
#[test]
fn what_is_none_of_ours_is_said_and_hinders_nothing() {
    let (folder, directory) = folder();
    let history = folder.path().join("history");
    fs::create_dir(&history).unwrap();
    fs::write(history.join("18446744073709551615.json"), "{}").unwrap();
    fs::create_dir(history.join(JOURNAL)).unwrap();
    fs::write(history.join("journal.damaged"), "").unwrap();
    let mut store = Store::open(&directory).unwrap();
    assert_eq!(store.next(), 1);
    store.put_journal_aside("is damaged");
    let said = store.set_aside.last().unwrap();
    assert!(said.contains("can't be set aside"), "{said}");
}
