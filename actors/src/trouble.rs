//! A trouble that lasts, as a full disk does: it is told of when it begins and when it is over, however often it shows in
//! between.

/// What goes wrong again and again. The default is no trouble.
#[derive(Debug, Default)]
pub struct Trouble(Option<String>);

impl Trouble {
    /// It shows; whether that is news. Another reason is.
    pub fn shows(&mut self, reason: &impl ToString) -> bool {
        let reason = reason.to_string();
        let news = self.0.as_ref() != Some(&reason);
        self.0 = Some(reason);
        news
    }

    /// It does not show any more; whether it did before.
    pub fn is_over(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_news_when_it_begins_when_its_reason_changes_and_when_it_is_over() {
        let mut trouble = Trouble::default();
        assert!(!trouble.is_over());
        assert_eq!([(); 3].map(|()| trouble.shows(&"full")), [true, false, false]);
        assert_eq!([(); 2].map(|()| trouble.shows(&"broken")), [true, false]);
        assert_eq!([(); 2].map(|()| trouble.is_over()), [true, false]);
        assert!(trouble.shows(&"full"));
    }
}
