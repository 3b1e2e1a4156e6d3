//! What is made once and kept for whoever asks for it again, as long as there is room. For pure functions.

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock};

/// Values by what they were made of, in bounded room. A full memo is emptied; a value that needs more than a sixteenth of the
/// room is not kept, so that it takes many to empty it.
#[derive(Debug)]
pub struct Memo<K, V> {
    bytes_max: usize,
    kept: RwLock<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    values: BTreeMap<K, V>,
    bytes: usize,
}

impl<K: Ord, V: Clone> Memo<K, V> {
    /// Room for about so many bytes.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: RwLock::new(Kept { values: BTreeMap::new(), bytes: 0 }) }
    }

    /// The value of `key`, made if it is not kept; `make` says, too, how many bytes keeping it takes.
    pub fn get(&self, key: K, make: impl FnOnce() -> (V, usize)) -> V {
        let Ok(value) = self.try_get(key, || Ok::<_, Infallible>(make()));
        value
    }

    /// The same of what may not be made.
    ///
    /// # Errors
    /// Those of `make`, each time anew.
    pub fn try_get<E>(&self, key: K, make: impl FnOnce() -> Result<(V, usize), E>) -> Result<V, E> {
        if let Some(value) = self.kept.read().unwrap_or_else(PoisonError::into_inner).values.get(&key) {
            return Ok(value.clone());
        }
        // Two that ask at once make it twice, and both are right.
        let (value, bytes) = make()?;
        if bytes > self.bytes_max / 16 {
            return Ok(value);
        }
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let full = kept.bytes + bytes > self.bytes_max;
        let emptied = full.then(|| std::mem::replace(&mut *kept, Kept { values: BTreeMap::new(), bytes: 0 }));
        if kept.values.insert(key, value.clone()).is_none() {
            kept.bytes += bytes;
        }
        // Nobody waits while thousands of values are freed.
        drop(kept);
        drop(emptied);
        Ok(value)
    }
}

/// What was made of types, for the whole process.
static OF_TYPES: Memo<(TypeId, String), Arc<dyn Any + Send + Sync>> = Memo::new(8 << 20);

/// The value that the type `T` and `key` give, made if it is not kept; `make` says, too, how many bytes keeping it takes.
pub fn of_type<T: 'static, V: Send + Sync + 'static>(key: String, make: impl FnOnce() -> (V, usize)) -> Arc<V> {
    let mut made = None;
    let kept = OF_TYPES.get((TypeId::of::<(T, V)>(), key), || {
        let (value, bytes) = make();
        let value = Arc::new(value);
        made = Some(value.clone());
        (value, bytes)
    });
    // One that was kept under this type is of this type.
    made.or_else(|| kept.downcast().ok()).unwrap_or_else(|| unreachable!("kept under another type"))
}

/// Values by the shared thing they were made of. A thing is known by where it stands, and is kept with its value, so that nothing
/// else comes to stand there.
#[derive(Debug)]
pub struct Beside<T, V>(Memo<usize, (Arc<T>, V)>);

impl<T, V: Clone> Beside<T, V> {
    /// Room for about so many bytes.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self(Memo::new(bytes_max))
    }

    /// The value of `thing`, made if it is not kept; `make` says, too, how many bytes keeping both takes.
    pub fn get(&self, thing: &Arc<T>, make: impl FnOnce(&T) -> (V, usize)) -> V {
        let Ok(value) = self.try_get(thing, |thing| Ok::<_, Infallible>(make(thing)));
        value
    }

    /// The same of what may not be made.
    ///
    /// # Errors
    /// Those of `make`, each time anew.
    pub fn try_get<E>(&self, thing: &Arc<T>, make: impl FnOnce(&T) -> Result<(V, usize), E>) -> Result<V, E> {
        let made = self
            .0
            .try_get(Arc::as_ptr(thing).addr(), || make(thing).map(|(value, bytes)| ((thing.clone(), value), bytes)));
        made.map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_once_a_failure_is_not_kept_and_a_full_memo_begins_anew() {
        let memo = Memo::new(160);
        assert_eq!((memo.get(1, || ("one", 10)), memo.get(1, || ("another", 10))), ("one", "one"));
        assert_eq!(memo.try_get(2, || Err("cannot")), Err("cannot"));
        assert_eq!(memo.try_get(2, || Ok::<_, &str>(("two", 10))), Ok("two"));
        assert_eq!((memo.get(3, || ("large", 11)), memo.get(3, || ("made again", 11))), ("large", "made again"));
        for n in 10..100 {
            memo.get(n, || ("more", 10));
            let kept = memo.kept.read().expect("no panic");
            assert!(kept.bytes <= 160 && kept.bytes == 10 * kept.values.len(), "{kept:?}");
        }
        assert_eq!(memo.get(1, || ("one again", 10)), "one again");
    }

    #[test]
    fn a_value_of_a_type_is_not_that_of_another_type_nor_of_another_key() {
        let of_u8 = |key: &str, value: u64| of_type::<u8, u64>(key.to_owned(), || (value, 1));
        assert_eq!((*of_u8("a", 1), *of_u8("a", 2), *of_u8("b", 3)), (1, 1, 3));
        assert_eq!(*of_type::<u16, u64>("a".to_owned(), || (4, 1)), 4);
        assert_eq!(*of_type::<u8, &str>("a".to_owned(), || ("five", 1)), "five");
    }

    #[test]
    fn what_stands_where_another_stood_has_a_value_of_its_own() {
        let beside = Beside::new(160);
        let of = |thing: &Arc<u32>| beside.get(thing, |n| (n.to_string(), 10));
        let kept = Arc::new(7);
        assert_eq!(of(&kept), "7");
        // Each is gone when the next is made, and would leave its place to it.
        for n in 0..100 {
            assert_eq!(of(&Arc::new(n)), n.to_string());
        }
        assert_eq!(of(&kept), "7");
    }
}
