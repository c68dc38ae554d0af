//! The language of policy rules: the part of oslo.policy's that rules of the Image API are written in.
//!
//! ```text
//! rule  = and *( "or" and )          and   = not *( "and" not )
//! not   = [ "not" ] check            check = "(" rule ")" / "@" / "!" / kind ":" match
//! ```
//! An empty rule always holds.

use std::sync::Arc;

use super::Identity;
use crate::catalogue::Visibility;

/// Deepest nesting of parentheses and `not`.
const DEPTH_MAX: usize = 64;

/// What a rule is asked about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// The project that owns it.
    pub(super) owner: Option<&'a str>,
    /// Whether it is shared with the caller's project.
    pub(super) member: bool,
    /// Who may see it, if it is an image.
    pub(super) visibility: Option<Visibility>,
}

/// A condition on a caller and a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    Always,
    Never,
    Role(String),
    /// Of another rule, which is found when all are known.
    Reference(String),
    Named(Arc<Rule>),
    OwnerIsProject,
    MemberIsProject,
    Visibility(String),
    Project(String),
    User(String),
    Not(Box<Rule>),
    All(Vec<Rule>),
    Any(Vec<Rule>),
}

impl Rule {
    /// Reads a rule; the error says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let tokens = tokens(text);
        if tokens.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser {
            tokens: &tokens,
            depth: 0,
        };
        let rule = parser.any()?;
        match parser.tokens {
            [] => Ok(rule),
            [left, ..] => Err(format!("{left:?} is one too many")),
        }
    }

    /// Whether it holds. References that were not resolved do not.
    pub(super) fn holds(&self, who: &Identity, target: Target<'_>) -> bool {
        let project = who.project.as_deref();
        match self {
            Self::Always => true,
            Self::Never | Self::Reference(_) => false,
            Self::Role(role) => who.roles.contains(role),
            Self::Named(rule) => rule.holds(who, target),
            Self::OwnerIsProject => project.is_some() && project == target.owner,
            Self::MemberIsProject => target.member,
            Self::Visibility(visibility) => {
                target.visibility.is_some_and(|v| v.as_str() == visibility)
            }
            Self::Project(id) => project == Some(id),
            Self::User(id) => who.user.as_ref() == Some(id),
            Self::Not(rule) => !rule.holds(who, target),
            Self::All(rules) => rules.iter().all(|rule| rule.holds(who, target)),
            Self::Any(rules) => rules.iter().any(|rule| rule.holds(who, target)),
        }
    }

    /// Puts rules in the place of references to them.
    pub(super) fn resolve<E>(
        self,
        find: &mut impl FnMut(&str) -> Result<Arc<Rule>, E>,
    ) -> Result<Self, E> {
        let mut all = |rules: Vec<Self>| -> Result<Vec<Self>, E> {
            rules.into_iter().map(|rule| rule.resolve(find)).collect()
        };
        Ok(match self {
            Self::All(rules) => Self::All(all(rules)?),
            Self::Any(rules) => Self::Any(all(rules)?),
            Self::Not(rule) => Self::Not(Box::new(rule.resolve(find)?)),
            Self::Reference(name) => Self::Named(find(&name)?),
            other => other,
        })
    }
}

/// Words and parentheses. Parentheses stick to words, except that `%(…)s` is part of one.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    for word in text.split_whitespace() {
        let inner = word.trim_start_matches('(');
        let opened = word.len() - inner.len();
        let mut end = inner.len();
        // The name in `%(…)s` ends with an s, so every parenthesis at the end closes a group.
        while inner[..end].ends_with(')') {
            end -= 1;
        }
        tokens.extend(std::iter::repeat_n("(", opened));
        if end > 0 {
            tokens.push(&inner[..end]);
        }
        tokens.extend(std::iter::repeat_n(")", inner.len() - end));
    }
    tokens
}

struct Parser<'a, 't> {
    tokens: &'t [&'a str],
    depth: usize,
}

impl Parser<'_, '_> {
    fn any(&mut self) -> Result<Rule, String> {
        let mut rules = vec![self.all()?];
        while self.take("or") {
            rules.push(self.all()?);
        }
        Ok(one_or(rules, Rule::Any))
    }

    fn all(&mut self) -> Result<Rule, String> {
        let mut rules = vec![self.not()?];
        while self.take("and") {
            rules.push(self.not()?);
        }
        Ok(one_or(rules, Rule::All))
    }

    fn not(&mut self) -> Result<Rule, String> {
        if self.depth > DEPTH_MAX {
            return Err(format!("it is nested deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let rule = if self.take("not") {
            Rule::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let rule = self.any()?;
            if !self.take(")") {
                return Err("a parenthesis is not closed".into());
            }
            rule
        } else {
            let [word, rest @ ..] = self.tokens else {
                return Err("it ends where a check should be".into());
            };
            self.tokens = rest;
            check(word)?
        };
        self.depth -= 1;
        Ok(rule)
    }

    fn take(&mut self, wanted: &str) -> bool {
        match self.tokens {
            [word, rest @ ..] if word.eq_ignore_ascii_case(wanted) => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }
}

fn one_or(mut rules: Vec<Rule>, join: impl FnOnce(Vec<Rule>) -> Rule) -> Rule {
    match rules.len() {
        1 => rules.remove(0),
        _ => join(rules),
    }
}

fn check(word: &str) -> Result<Rule, String> {
    let unknown = || format!("{word:?} is no check that is known here");
    match word {
        "@" => return Ok(Rule::Always),
        "!" => return Ok(Rule::Never),
        _ => {}
    }
    let (kind, value) = word.split_once(':').ok_or_else(unknown)?;
    let literal = || {
        if value.is_empty() || value.contains('%') {
            Err(unknown())
        } else {
            Ok(value.to_owned())
        }
    };
    Ok(match (kind, value) {
        ("role", _) => Rule::Role(literal()?.to_lowercase()),
        ("rule", _) => Rule::Reference(literal()?),
        ("project_id", "%(project_id)s" | "%(owner)s") => Rule::OwnerIsProject,
        ("project_id", "%(member_id)s") => Rule::MemberIsProject,
        ("project_id", _) => Rule::Project(literal()?),
        ("user_id", _) => Rule::User(literal()?),
        (quoted, "%(visibility)s") => {
            let visibility = quoted
                .strip_prefix('\'')
                .and_then(|rest| rest.strip_suffix('\''))
                .filter(|name| Visibility::parse(name).is_some());
            Rule::Visibility(visibility.ok_or_else(unknown)?.to_owned())
        }
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn holds(rule: &str, who: &Identity, target: Target<'_>) -> bool {
        Rule::parse(rule).unwrap().holds(who, target)
    }

    fn member(project: &str) -> Identity {
        Identity::of(Some("u1"), Some(project), &["member", "reader"])
    }

    const OURS: Target<'_> = Target {
        owner: Some("p1"),
        member: false,
        visibility: Some(Visibility::Shared),
    };

    #[test]
    fn checks() {
        let who = member("p1");
        for (rule, expected) in [
            ("", true),
            ("@", true),
            ("!", false),
            ("role:member", true),
            ("role:MEMBER", true),
            ("role:admin", false),
            ("project_id:%(project_id)s", true),
            ("project_id:%(owner)s", true),
            ("project_id:%(member_id)s", false),
            ("project_id:p1", true),
            ("project_id:p2", false),
            ("user_id:u1", true),
            ("'shared':%(visibility)s", true),
            ("'public':%(visibility)s", false),
        ] {
            assert_eq!(holds(rule, &who, OURS), expected, "{rule}");
        }
        let shared = Target {
            member: true,
            ..OURS
        };
        assert!(!holds("project_id:%(owner)s", &member("p2"), shared));
        assert!(holds("project_id:%(member_id)s", &member("p2"), shared));
    }

    #[test]
    fn nobody_owns_what_has_no_owner() {
        let unscoped = Identity::of(Some("u1"), None, &["member"]);
        let unowned = Target {
            owner: None,
            ..OURS
        };
        assert!(!holds("project_id:%(owner)s", &unscoped, unowned));
    }

    #[test]
    fn not_binds_closest_and_or_last() {
        let who = member("p1");
        for (rule, expected) in [
            ("@ or ! and !", true),
            ("(@ or !) and !", false),
            ("not ! and @", true),
            ("not (@ and @)", false),
            ("not not @", true),
            ("! or (! or (@ and role:member))", true),
            (
                "role:admin or (role:member and (project_id:%(owner)s))",
                true,
            ),
        ] {
            assert_eq!(holds(rule, &who, OURS), expected, "{rule}");
        }
    }

    #[test]
    fn what_is_no_rule() {
        for bad in [
            "member",
            "(@",
            "@)",
            "@ @",
            "and @",
            "@ or",
            "not",
            "role:",
            "http://policy.example/",
            "role:%(x)s",
            "public:%(visibility)s",
            "'secret':%(visibility)s",
            "tenant:%(tenant)s",
        ] {
            assert!(Rule::parse(bad).is_err(), "{bad}");
        }
        assert!(Rule::parse(&format!("{}@{}", "(".repeat(99), ")".repeat(99))).is_err());
        assert!(Rule::parse(&format!("{} @", "not ".repeat(100_000))).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[()@!a-z:%' ]{0,60}") {
            let _either = Rule::parse(&text);
        }
    }
}
