cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "10.0.0.11:5432" }
}

route { database_suffix = "_replica" }
route {
  database_suffix = "_app_replica"
  role            = "replica"
}
route {
  database        = "app"
  database_suffix = "_replica"
}
route { database_pattern = "[a-" }
route { cluster = "mian" }
route {
  user     = "x"
  fallback = "no_replica"
}
route { sni = "" }
route { role = "any" }
route { database = "app" }
route { user = "late" }
