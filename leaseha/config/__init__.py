"""The configuration: TOML and environment in, frozen values or one list of everything wrong out.

    load(path)              from a file           -> Config, or ConfigError with all problems
    parse(text)             from text
    node_spec(config, ...)  what the core is told
    read_password(path)     etcd's password, from the file of its own

`keys.py` is the table of keys; docs/configuration.md tells what each is for, and a test holds the two together.
"""

from leaseha.config.durations import format_duration, parse_duration
from leaseha.config.faults import Wrong
from leaseha.config.files import read_password
from leaseha.config.load import DEFAULT_PATH, load, parse
from leaseha.config.model import (
    Carrier,
    CheckConfig,
    Config,
    CopiesConfig,
    DoorConfig,
    Endpoint,
    EtcdConfig,
    HostPort,
    KeepAway,
    LeaseConfig,
    LogConfig,
    LogFormat,
    LogLevel,
    NodeConfig,
    OtlpProtocol,
    Ping,
    Probe,
    RepositoryConfig,
    Script,
    SessionConfig,
    StatusConfig,
    Tcp,
    TelemetryConfig,
    Vip,
)
from leaseha.config.readers import size
from leaseha.config.spec import lease_spec, node_spec

__all__ = [
    "DEFAULT_PATH",
    "Carrier",
    "CheckConfig",
    "Config",
    "CopiesConfig",
    "DoorConfig",
    "Endpoint",
    "EtcdConfig",
    "HostPort",
    "KeepAway",
    "LeaseConfig",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "NodeConfig",
    "OtlpProtocol",
    "Ping",
    "Probe",
    "RepositoryConfig",
    "Script",
    "SessionConfig",
    "StatusConfig",
    "Tcp",
    "TelemetryConfig",
    "Vip",
    "Wrong",
    "format_duration",
    "lease_spec",
    "load",
    "node_spec",
    "parse",
    "parse_duration",
    "read_password",
    "size",
]
