//! Whose turn it is: several queues are served one item each, over and over, within a budget.
//!
//! In: queues, a budget. Out: their items, fairly. Never: a queue that waits for another's end, in a round or over
//! rounds.

/// Which queue is next.
#[derive(Default)]
pub(crate) struct Turn(usize);

impl Turn {
    /// Serves at most `budget` items, one of each queue in turn; the next call goes on with the queue behind.
    pub(crate) fn serve<Q, T>(
        &mut self,
        queues: &mut [Q],
        budget: usize,
        mut pop: impl FnMut(&mut Q) -> Option<T>,
        mut serve: impl FnMut(T),
    ) {
        let (mut left, mut empty) = (budget, 0);
        while left > 0 && empty < queues.len() {
            self.0 %= queues.len();
            match pop(&mut queues[self.0]) {
                Some(item) => {
                    serve(item);
                    left -= 1;
                    empty = 0;
                }
                None => empty += 1,
            }
            self.0 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// What a round of 64 takes from queues of these lengths.
    fn round(turn: &mut Turn, queues: &mut [VecDeque<usize>]) -> Vec<usize> {
        let mut taken = vec![0; queues.len()];
        turn.serve(queues, 64, VecDeque::pop_front, |queue| taken[queue] += 1);
        taken
    }

    fn filled(lens: &[usize]) -> Vec<VecDeque<usize>> {
        let queue = |(index, &len)| std::iter::repeat_n(index, len).collect();
        lens.iter().enumerate().map(queue).collect()
    }

    #[test]
    fn a_flood_in_one_queue_leaves_the_others_their_share() {
        let mut turn = Turn::default();
        let mut queues = filled(&[4_096, 3, 0, 40]);
        assert_eq!(round(&mut turn, &mut queues), [31, 3, 0, 30]);
        assert_eq!(round(&mut turn, &mut queues), [54, 0, 0, 10]);
        assert_eq!(round(&mut turn, &mut queues), [64, 0, 0, 0]);
    }

    #[test]
    fn a_round_goes_on_where_the_last_one_ended() {
        let mut turn = Turn::default();
        let mut queues = filled(&[1_000; 100]);
        let mut taken = vec![0; 100];
        for _ in 0..100 {
            for (sum, now) in taken.iter_mut().zip(round(&mut turn, &mut queues)) {
                *sum += now;
            }
        }
        assert_eq!(taken, [64; 100]);
    }

    #[test]
    fn what_is_empty_ends_the_round() {
        let mut turn = Turn::default();
        assert!(round(&mut turn, &mut []).is_empty());
        assert_eq!(round(&mut turn, &mut filled(&[0, 0])), [0, 0]);
        assert_eq!(round(&mut turn, &mut filled(&[0, 5])), [0, 5]);
    }
}
