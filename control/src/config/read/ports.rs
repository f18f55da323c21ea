//! Ports.

use culvert_wire::ether::VlanId;

use super::Reader;
use crate::config::draft::{Attachment, Port, PortKind};
use crate::config::raw::Value;
use crate::config::section::{At, Numbered, Section};
use crate::config::{Guard, Name, Offloads, SocketMode, value};

impl Reader<'_> {
    pub(in crate::config) fn port(&mut self, name: At<Name>, section: Section<'_>) -> Option<Port> {
        let kind = match (
            section.node("driver"),
            section.choice("driver", self.report),
        ) {
            (None, _) => PortKind::VhostUser,
            (Some(_), choice) => match choice?.value {
                "tun" => PortKind::Tun,
                "tap" => PortKind::Tap,
                _ => PortKind::VhostUser,
            },
        };
        let mode = section
            .choice("socket_mode", self.report)
            .map(|at| at.value);
        let mode = if mode == Some("client") {
            SocketMode::Client
        } else {
            SocketMode::Server
        };
        let port = Port {
            kind,
            attachments: self.attachments(&section),
            mac: section.get("mac", self.report, value::mac),
            queues: section.integer("queues", self.report),
            queue_workers: self.queue_workers(&section),
            socket: section.get("socket", self.report, value::path),
            socket_mode: mode,
            owner: section
                .get("socket_owner", self.report, value::account)
                .map(|at| at.value),
            group: section
                .get("socket_group", self.report, value::account)
                .map(|at| at.value),
            permissions: section
                .get("socket_permissions", self.report, value::permissions)
                .map(|at| at.value),
            interface: section.get("interface", self.report, value::interface_name),
            offloads: self.offloads(&section),
            labels: self.labels(&section),
            enabled: self.enabled(&section),
            name,
        };
        self.check_kind(&section, &port);
        Some(port)
    }

    /// What its guest is attached with: without a tag, then by VLAN. Those have its guard and its DHCP unless they say
    /// others.
    fn attachments(&mut self, section: &Section<'_>) -> Vec<Attachment> {
        let native = self.attachment(section, None);
        let before = self.report.errors();
        let vlans = section.numbered("vlans", self.report);
        if vlans.is_empty() {
            if self.report.errors() == before {
                self.need(section, &["network"], "a port without `vlans`");
            }
            return vec![native];
        }
        let inherited = (native.guard, native.dhcp);
        let is_native = section.node("network").is_some() || section.misspells("network");
        if !is_native {
            self.refuse(
                section,
                &["addresses"],
                "beside `network`",
                "write addresses in a VLAN with it: `vlans: { 10: { network: NAME, addresses: [...] } }`",
            );
        }
        let vlans = vlans.into_iter().filter_map(|(number, item)| {
            let vlan = u16::try_from(number.value).ok().and_then(VlanId::new)?;
            let attachment = match item {
                Numbered::Section(section) => self.attachment(&section, Some(inherited)),
                Numbered::Short(node, title) => {
                    let what = format!("the network of {title}");
                    let name = value::name(node, &what, self.report);
                    Attachment {
                        vlan: None,
                        network: name.map(|name| At::new(name, node.span)),
                        addresses: Vec::new(),
                        lacks_addresses: false,
                        guard: inherited.0,
                        dhcp: inherited.1,
                    }
                }
            };
            Some(Attachment {
                vlan: Some(At::new(vlan, number.span)),
                ..attachment
            })
        });
        let mut vlans: Vec<_> = vlans.collect();
        vlans.sort_by_key(|it| it.vlan.map(|at| at.value));
        let native = is_native.then_some(native);
        native.into_iter().chain(vlans).collect()
    }

    fn attachment(
        &mut self,
        section: &Section<'_>,
        inherited: Option<(Option<At<Guard>>, bool)>,
    ) -> Attachment {
        let (guard, dhcp) = inherited.unwrap_or((None, true));
        let own = section.choice("guard", self.report).map(|at| {
            let guard = match at.value {
                "mac" => Guard::Mac,
                "off" => Guard::Off,
                _ => Guard::Strict,
            };
            At::new(guard, at.span)
        });
        let before = self.report.errors();
        let addresses = section.list("addresses", self.report, value::address);
        Attachment {
            vlan: None,
            network: section.get("network", self.report, value::name),
            addresses,
            lacks_addresses: self.report.errors() > before,
            guard: own.or(guard),
            dhcp: section
                .get("dhcp", self.report, value::boolean)
                .map_or(dhcp, |at| at.value),
        }
    }

    fn check_kind(&mut self, section: &Section<'_>, port: &Port) {
        if port.kind != PortKind::Tun {
            self.need(section, &["mac"], "the port of a guest");
        } else {
            self.refuse(
                section,
                &["dhcp"],
                "for `vhost-user` and `tap` ports",
                "remove it: the interface is given its `addresses` as it is",
            );
        }
        if port.kind == PortKind::VhostUser {
            self.refuse(
                section,
                &["interface"],
                "for `tun` and `tap` ports",
                "remove it, or choose another `driver`",
            );
            if port.socket_mode == SocketMode::Client {
                self.refuse(
                    section,
                    &["socket_owner", "socket_group", "socket_permissions"],
                    "for `socket_mode: server`",
                    "remove it: in client mode the VMM makes the socket",
                );
            }
            return;
        }
        self.refuse(
            section,
            &["vlans"],
            "for `vhost-user` ports",
            "remove it: give the host an interface for each network",
        );
        self.refuse(
            section,
            &[
                "socket",
                "socket_mode",
                "socket_owner",
                "socket_group",
                "socket_permissions",
            ],
            "for `vhost-user` ports",
            "remove it, or choose `driver: vhost-user`",
        );
        if port.interface.is_none()
            && section.node("interface").is_none()
            && !value::is_interface_name(port.name.value.as_str())
        {
            self.report
                .error(
                    port.name.span,
                    format!("{}'s name is too long for an interface", section.title()),
                )
                .help("give it an `interface: NAME` of at most 15 characters");
        }
    }

    fn offloads(&mut self, port: &Section<'_>) -> Offloads {
        let Some(node) = port.node("offloads") else {
            return Offloads::ALL;
        };
        if matches!(node.value, Value::Text(_)) {
            let what = format!("`offloads` of {}", port.title());
            let word = value::choice(node, &what, &["all", "none"], self.report);
            return if word == Some("none") {
                Offloads::NONE
            } else {
                Offloads::ALL
            };
        }
        let Some(section) = port.table("offloads", self.report) else {
            return Offloads::ALL;
        };
        let mut read = |key| {
            section
                .get(key, self.report, value::boolean)
                .map(|at| at.value)
        };
        let checksum = read("checksum").unwrap_or(true);
        // What is not written follows what it needs; what is written must agree with it.
        let tso4 = read("tso4").unwrap_or(checksum);
        let tso6 = read("tso6").unwrap_or(checksum);
        let offloads = Offloads {
            checksum,
            tso4,
            tso6,
            ecn: read("ecn").unwrap_or(tso4 || tso6),
            uso: read("uso").unwrap_or(checksum),
            mergeable: read("mergeable").unwrap_or(true),
            packed: read("packed").unwrap_or(true),
        };
        let needs = [
            ("tso4", offloads.tso4, checksum, "`checksum`"),
            ("tso6", offloads.tso6, checksum, "`checksum`"),
            ("uso", offloads.uso, checksum, "`checksum`"),
            ("ecn", offloads.ecn, tso4 || tso6, "`tso4` or `tso6`"),
        ];
        for (key, on, met, need) in needs {
            if on && !met {
                let span = section.key_span(key).unwrap_or(section.span);
                self.report
                    .error(
                        span,
                        format!("`{key}` of {} is on without {need}", section.title()),
                    )
                    .help(format!("switch {need} on, or `{key}` off"));
            }
        }
        offloads
    }
}
