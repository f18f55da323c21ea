//! Finds the system's libdpdk, compiles the C shim against it and generates the bindings.
//!
//! *In*: `pkg-config libdpdk`, `clang` for its libclang. *Out*: `libculvert_shim.a`, `bindings.rs`,
//! the few DPDK libraries to link. *Never*: a fetch from anywhere, or `-march=native`.

use std::{
    env,
    path::{Path, PathBuf},
    process::{self, Command},
};

const PACKAGES: &str = "libdpdk-dev dpdk pkg-config clang libclang-dev";

/// The oldest DPDK this crate's shim is written for (Debian 12's).
const OLDEST: &str = "22.11";

/// What the shim and the safe layer call. Drivers are not among them: EAL loads those by itself.
/// `rte_log` and `rte_argparse` are libraries of their own from 24.03 on, hence "if present".
const LIBRARIES: [&str; 6] = [
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_ring",
    "rte_eal",
    "rte_log",
];

fn main() {
    for input in ["build.rs", "src/shim.h", "src/shim.c"] {
        println!("cargo:rerun-if-changed={input}");
    }
    for variable in ["LIBCLANG_PATH", "PKG_CONFIG_PATH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }

    let cflags = link_dpdk();
    compile_shim(&cflags);
    choose_libclang();
    generate_bindings(&cflags);
}

/// Emits the link lines and returns pkg-config's C flags.
fn link_dpdk() -> Vec<String> {
    let library = pkg_config::Config::new()
        .atleast_version(OLDEST)
        .cargo_metadata(false)
        .probe("libdpdk")
        .unwrap_or_else(|error| {
            fail(&format!(
                "libdpdk {OLDEST} or newer was not found by pkg-config.\n{error}"
            ))
        });
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in LIBRARIES {
        if library.libs.iter().any(|found| found == name) {
            println!("cargo:rustc-link-lib=dylib={name}");
        }
    }

    // The crate drops `-include rte_config.h` and `-march`, which DPDK's inline functions need.
    let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".to_owned());
    let output = Command::new(&program)
        .args(["--cflags", "libdpdk"])
        .output()
        .unwrap_or_else(|error| fail(&format!("{program} could not be run: {error}")));
    if !output.status.success() {
        fail(&format!("`{program} --cflags libdpdk` failed"));
    }
    String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

fn compile_shim(cflags: &[String]) {
    let mut build = cc::Build::new();
    build.file("src/shim.c").warnings(true).std("gnu11");
    for flag in cflags {
        // DPDK's headers are the system's: their warnings are not ours.
        match flag.strip_prefix("-I") {
            Some(path) => build.flag("-isystem").flag(path),
            None => build.flag(flag),
        };
    }
    // A debug build's shim would put a slow `rx_burst` under otherwise meaningful measurements.
    build.opt_level(3).compile("culvert_shim");
}

/// With several libclang versions installed, clang-sys takes the newest and may then read another
/// version's intrinsics headers (`emmintrin.h` fails). The libclang beside `clang` fits by nature.
fn choose_libclang() {
    if env::var_os("LIBCLANG_PATH").is_some() {
        return;
    }
    let Ok(output) = Command::new("clang").arg("-print-resource-dir").output() else {
        return; // bindgen searches, and `generate_bindings` explains if it finds none
    };
    // <prefix>/lib/clang/<version> → <prefix>/lib
    let resources = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let Some(directory) = resources.ancestors().nth(2) else {
        return;
    };
    if has_libclang(directory) {
        // SAFETY: a build script with a single thread.
        unsafe { env::set_var("LIBCLANG_PATH", directory) };
    }
}

fn has_libclang(directory: &Path) -> bool {
    directory.read_dir().is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libclang.so") || name.starts_with("libclang-")
        })
    })
}

fn generate_bindings(cflags: &[String]) {
    let flags = cflags.to_vec();
    // clang-sys panics when there is no libclang: the operator is told the packages instead.
    let generated = std::panic::catch_unwind(|| {
        bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(flags)
            .allowlist_function("culvert_.*")
            .allowlist_type("culvert_.*")
            .allowlist_var("CULVERT_.*")
            .allowlist_recursively(false)
            .blocklist_type("rte_.*")
            .prepend_enum_name(false)
            .layout_tests(false)
            .generate_comments(false)
            .use_core()
            .generate()
    });
    let bindings = match generated {
        Ok(Ok(bindings)) => bindings,
        Ok(Err(error)) => fail(&format!(
            "bindgen could not read the shim's header: {error}"
        )),
        Err(_) => fail("bindgen stopped: is libclang installed?"),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("no OUT_DIR")));
    if let Err(error) = bindings.write_to_file(out.join("bindings.rs")) {
        fail(&format!("bindings.rs could not be written: {error}"));
    }
}

fn fail(message: &str) -> ! {
    eprintln!(
        "\n{message}\n\nOn Debian: apt install {PACKAGES}\n\
         Or build Culvert without DPDK: cargo build -p culvert --no-default-features\n"
    );
    process::exit(1);
}
