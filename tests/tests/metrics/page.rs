//! A page of metrics as values by name and labels.

use std::collections::{BTreeMap, BTreeSet};

use reaper_tests::daemon::TestDaemon;
use reaperd::client::{Client, ClientError};

/// A page in Prometheus's text format.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    values: BTreeMap<String, f64>,
    pub(crate) text: String,
}

impl Page {
    /// The page that this daemon shows to the test.
    pub(crate) fn of(daemon: &TestDaemon) -> Self {
        Self::read(&daemon.client())
    }

    pub(crate) fn read(client: &Client) -> Self {
        Self::try_read(client).unwrap()
    }

    pub(crate) fn try_read(client: &Client) -> Result<Self, ClientError> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        runtime.block_on(client.metrics()).map(Self::parse)
    }

    pub(crate) fn parse(text: String) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let values = samples.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self {
            values: values.collect(),
            text,
        }
    }

    /// The value of a metric, written as in the page: `name{label="value"}`.
    pub(crate) fn value(&self, metric: &str) -> f64 {
        let value = self.values.get(metric);
        *value.unwrap_or_else(|| panic!("{metric} is not in {}", self.text))
    }

    /// All values of a metric, by its labels.
    pub(crate) fn all(&self, name: &str) -> BTreeMap<&str, f64> {
        let values = self.values.iter();
        let of_name = values.filter_map(|(metric, value)| {
            let labels = metric.strip_prefix(name)?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, *value))
        });
        of_name.collect()
    }

    /// The sum of all values of a metric.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.all(name).values().sum()
    }

    /// The values of one label.
    pub(crate) fn label_values(&self, name: &str, label: &str) -> BTreeSet<String> {
        let all = self.all(name);
        let values = all.keys().filter_map(|labels| {
            let (_, value) = labels.split_once(&format!("{label}=\""))?;
            Some(value.split_once('"')?.0.to_owned())
        });
        values.collect()
    }

    /// The names of the families, with their types.
    pub(crate) fn families(&self) -> BTreeMap<&str, &str> {
        let types = self.text.lines();
        let types = types.filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        types.collect()
    }
}
