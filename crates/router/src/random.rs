//! Random numbers for the choice of a dyno and for request ids. Not for secrets: the generator (xoshiro256++,
//! Blackman and Vigna) is seeded once a thread, because a system call for each request costs more than the rest.

use std::cell::Cell;

thread_local! {
    static STATE: Cell<[u64; 4]> = Cell::new(seed());
}

fn seed() -> [u64; 4] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("getrandom(2) works on every supported kernel");
    let mut state = [0; 4];
    for (word, chunk) in state.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk) | 1;
    }
    state
}

/// The next 64 random bits.
pub fn next() -> u64 {
    STATE.with(|state| {
        let mut s = state.get();
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        state.set(s);
        result
    })
}

/// A number below `bound`, which must not be 0.
pub fn below(bound: usize) -> usize {
    ((u128::from(next()) * bound as u128) >> 64) as usize
}

/// Sixteen random bytes.
pub fn bytes() -> [u8; 16] {
    (u128::from(next()) << 64 | u128::from(next())).to_le_bytes()
}
