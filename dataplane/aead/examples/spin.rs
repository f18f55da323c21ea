use culvert_aead::*;
use std::time::Instant;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let size: usize = a[1].parse().unwrap();
    let batch: usize = a[2].parse().unwrap();
    let ms: u128 = a[3].parse().unwrap();
    let kernel = Kernel::ALL.into_iter().find(|k| k.name() == a.get(4).map_or("avx512", |s| s)).unwrap();
    let mut e = Engine::with_kernel(kernel).unwrap();
    let mut bufs: Vec<Vec<u8>> = (0..batch).map(|_| vec![1u8; size.next_multiple_of(2048) + 128]).collect();
    let key = [7u8; 32];
    // frequency
    let t = Instant::now();
    let mut x = 1u64;
    for _ in 0..100_000_000u64 { unsafe { std::arch::asm!("add {0}, 1", inout(reg) x) }; }
    let ghz = 0.1 / t.elapsed().as_secs_f64() ;
    let start = Instant::now();
    let mut best = f64::MAX;
    let mut c = 0;
    while start.elapsed().as_millis() < ms {
        let t = Instant::now();
        let n = 64;
        for _ in 0..n {
            let mut jobs = Jobs::<_, 64>::new();
            for b in bufs.iter_mut() { c += 1; let _ = jobs.push(SealJob::in_place(&key, c, b, size).unwrap()); }
            e.seal(&mut jobs);
        }
        best = best.min(t.elapsed().as_nanos() as f64 / (n * batch) as f64);
    }
    println!("size {size} batch {batch}: {best:.1} ns/packet, {:.0} cycles at {ghz:.2} GHz, {x}", best * ghz);
}
