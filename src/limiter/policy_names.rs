//! The rules of policies by their names: [`PolicyNames`].

/// So many names are compared one by one, which tells names of different lengths apart without a look at
/// them. More are searched.
const FEW: usize = 8;

/// The index of the first rule of each policy, by its name.
#[derive(Default)]
pub(super) struct PolicyNames(Vec<(Box<str>, u32)>);

impl PolicyNames {
    /// Adds a policy, unless its name is there already.
    pub(super) fn add(&mut self, name: &str, index: u32) {
        if let Err(place) = self.search(name) {
            self.0.insert(place, (name.into(), index));
        }
    }

    #[inline]
    pub(super) fn get(&self, name: &str) -> Option<u32> {
        let found = match self.0.len() <= FEW {
            true => self.0.iter().find(|(known, _)| **known == *name),
            false => self.search(name).ok().and_then(|place| self.0.get(place)),
        };
        found.map(|(_, index)| *index)
    }

    fn search(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_found_among_few_and_among_many() {
        // Names of each length, and names that differ in one byte.
        let name = |number: usize| {
            let long = "a policy of a quite long name".get(..number % 30).unwrap_or_default();
            format!("{long}{}", number / 30)
        };
        for count in [0, 1, 7, FEW, FEW + 1, 200] {
            let mut names = PolicyNames::default();
            (0..count).for_each(|number| names.add(&name(number), number as u32));
            (0..count).for_each(|number| names.add(&name(number), 1_000));
            for number in 0..count {
                assert_eq!(names.get(&name(number)), Some(number as u32), "{count}");
            }
            for other in ["", "a", "b0", "a policy of a quite long nam", &name(count)] {
                assert_eq!(names.get(other), None, "{count}: {other}");
            }
        }
    }
}
