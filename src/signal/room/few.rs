//! A list that mostly has one item, and takes no memory of its own then.

use std::ops::Deref;

/// Names in an order that their owner gives them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Few<K> {
    #[default]
    None,
    One(K),
    Many(Vec<K>),
}

impl<K: Copy> Few<K> {
    /// Puts a name in at a place, which is at most the length.
    pub(super) fn insert(&mut self, at: usize, name: K) {
        match self {
            Self::None => *self = Self::One(name),
            Self::One(other) => {
                let mut both = vec![*other];
                both.insert(at, name);
                *self = Self::Many(both);
            }
            Self::Many(names) => names.insert(at, name),
        }
    }

    /// Takes the name at a place out, which is below the length.
    pub(super) fn remove(&mut self, at: usize) {
        let Self::Many(names) = self else {
            *self = Self::None;
            return;
        };
        names.remove(at);
        if let [one] = names[..] {
            *self = Self::One(one);
        }
    }
}

impl<K> Deref for Few<K> {
    type Target = [K];

    fn deref(&self) -> &[K] {
        match self {
            Self::None => &[],
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_and_go_in_their_order() {
        let mut few = Few::default();
        assert!(few.is_empty());
        few.insert(0, 2);
        assert_eq!(few[..], [2]);
        few.insert(0, 1);
        few.insert(2, 3);
        assert_eq!(few[..], [1, 2, 3]);
        few.remove(1);
        few.remove(1);
        assert_eq!(few, Few::One(1), "one alone takes no memory of its own");
        few.insert(1, 4);
        assert_eq!(few[..], [1, 4]);
        few.remove(0);
        few.remove(0);
        assert_eq!(few, Few::None);
    }
}
