listen {
  address             = ":7432"
  proxy_protocol_from = ["10.0.0.1/8", "ten", "unix", "::ffff:10.0.0.0/104", "fe80::1%eth0", "0.0.0.0/0"]
}
listen {
  address             = "127.0.0.1:7433"
  tls                 = "optional"
  proxy_protocol_from = ["127.0.0.1"]
}
listen {
  address             = "/run/pgreplicaproxy/.s.PGSQL.7432"
  proxy_protocol_from = ["10.0.0.0/8"]
}
listen {
  address             = "/run/pgreplicaproxy/.s.PGSQL.7433"
  proxy_protocol_from = ["unix"]
}
listen {
  address             = ":7434"
  proxy_protocol_from = "10.0.0.0/8"
}

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}
