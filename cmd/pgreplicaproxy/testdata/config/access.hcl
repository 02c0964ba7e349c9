cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}

access { user = "app" }
access { action = "forbid" }
access {
  action           = "allow"
  from             = ["10.0.0.0/8", "10.0.0.1/8", "::ffff:10.0.0.0/104", "example.com", "unix"]
  tls              = "yes"
  user             = "app"
  user_pattern     = "a*"
  database_pattern = "[a-"
  reason           = "why not"
}
access {
  action = "allow"
  from   = []
}
access {
  action = "refuse"
  reason = "closed"
}
access { action = "allow" }
