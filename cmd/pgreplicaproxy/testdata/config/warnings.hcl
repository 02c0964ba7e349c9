cluster "inline" {
  allow_authentication = ["scram-sha-256", "trust"]
  monitor { password = "hunter2" } # hunter2, as before
  backend "db1" { address = "10.0.0.11:5432" }
}
cluster "none" {
  backend "db1" { address = "10.0.0.21:5432" }
}
cluster "sockets" {
  backend "db1" { address = "/var/run/postgresql" }
}
cluster "document" {
  monitor {
    password = <<-EOT
      hunter2
    EOT
  }
  backend "db1" { address = "10.0.0.31:5432" }
}
route { cluster = "inline" }
