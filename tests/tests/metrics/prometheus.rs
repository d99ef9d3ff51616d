//! A real Prometheus, and a real node exporter with its textfile collector.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use reaper_tests::daemon::private_folder;
use reaper_tests::raw_http::parse;
use reaper_tests::wait::{TIMEOUT, eventually, eventually_some};
use reaperd::client::percent_encode;
use serde_json::Value;
use tempfile::TempDir;

use crate::port_in;
use crate::tools::tool;

/// A program that serves HTTP on a port of its choice. Dropped, it is killed and reaped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

impl Server {
    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn start(command: &mut Command, folder: TempDir) -> Self {
        let log = folder.path().join("log");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let port = eventually_some("it listens", || {
            let text = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "{command:?}: {text}");
            port_in(&text, "msg=\"Listening on\" address=")
        });
        Self {
            child,
            port,
            folder,
        }
    }
}

/// Starts a node exporter that reads the files of this folder, and nothing else.
pub(crate) fn node_exporter(textfiles: &Path) -> Option<Server> {
    let program = tool("prometheus-node-exporter")?;
    let mut command = Command::new(program);
    command
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--collector.disable-defaults",
        ])
        .arg("--collector.textfile")
        .arg(format!(
            "--collector.textfile.directory={}",
            textfiles.display()
        ));
    Some(Server::start(&mut command, private_folder()))
}

pub(crate) struct Prometheus(Server);

impl Prometheus {
    /// Starts one that scrapes these jobs twice a second: each has a name and the ports of its instances.
    /// It evaluates the rules as often. `None`, and a line, if it is not installed.
    pub(crate) fn start(jobs: &[(&str, &[u16])], rules: &str) -> Option<Self> {
        let program = tool("prometheus")?;
        let folder = private_folder();
        let config = folder.path().join("prometheus.yml");
        fs::write(folder.path().join("rules.yml"), rules).unwrap();
        fs::write(&config, configuration(jobs)).unwrap();
        let mut command = Command::new(program);
        command
            .arg("--web.listen-address=127.0.0.1:0")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ));
        let server = Server::start(&mut command, folder);
        eventually("Prometheus is ready", || {
            parse(&get(server.port, "/-/ready")).is_ok_and(|(status, _)| status == 200)
        });
        Some(Self(server))
    }

    /// The result of a query: the labels and the value of each series.
    pub(crate) fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let target = format!("/api/v1/query?query={}", percent_encode(query));
        let response = get(self.0.port, &target);
        let (status, body) = parse(&response).unwrap();
        assert_eq!(status, 200, "{query}: {body}");
        let response: Value = serde_json::from_str(body).unwrap();
        assert_eq!(response["status"], "success", "{query}: {response}");
        let series = response["data"]["result"].as_array().unwrap();
        let value = |series: &Value| series["value"][1].as_str().unwrap().parse().unwrap();
        series
            .iter()
            .map(|it| (it["metric"].clone(), value(it)))
            .collect()
    }

    /// The alerts that fire, with their labels.
    pub(crate) fn firing(&self, alert: &str) -> Vec<Value> {
        let query = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
        self.query(&query)
            .into_iter()
            .map(|(labels, _)| labels)
            .collect()
    }
}

/// Sends a request and returns the response, which has no chunks because the client is an old one.
fn get(port: u16, target: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let request = format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn configuration(jobs: &[(&str, &[u16])]) -> String {
    let mut text = "\
global:
  scrape_interval: 500ms
  scrape_timeout: 500ms
  evaluation_interval: 500ms
rule_files: [rules.yml]
scrape_configs:
"
    .to_owned();
    for (name, ports) in jobs {
        let targets: Vec<_> = ports
            .iter()
            .map(|port| format!("\"127.0.0.1:{port}\""))
            .collect();
        let targets = targets.join(", ");
        write!(
            text,
            "  - job_name: {name}\n    static_configs: [{{targets: [{targets}]}}]\n"
        )
        .unwrap();
    }
    text
}
