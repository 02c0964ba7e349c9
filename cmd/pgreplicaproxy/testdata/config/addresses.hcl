listen { address = "7432" }
listen { address = ":postgres" }
listen { address = "localhost:70000" }
listen { address = "/" }
listen { address = "" }
listen { address = "db one:7432" }

cluster "main" {
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = ":5432" }
  backend "db2" { address = "var/run/postgresql" }
  backend "db3" { address = "/var/run/postgresql/.s.PGSQL.5432" }
  backend "db4" { address = "10.0.0.14:0" }
  backend "db5" { address = "/var/run/postgresql:x" }
  backend "db6" {}
  backend "db7" { address = "a:b:c" }
  backend "-db8" { address = "10.0.0.18" }
  backend "db9" {
    address = "10.0.0.19"
    weight  = -1
  }
}
