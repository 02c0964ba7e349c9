cluster "unquoted" {
  monitor { password = hunter2 }
  backend "db1" { address = "10.0.0.11:5432" }
}
cluster "list" {
  monitor { password = ["hunter2"] }
  backend "db1" { address = "10.0.0.21:5432" }
}
cluster "misspelt" {
  monitor { pasword = "hunter2" }
  backend "db1" { address = "10.0.0.31:5432" }
}
cluster "called" {
  monitor { password = hunter2("hunter2") }
  backend "db1" { address = "10.0.0.41:5432" }
}
cluster "default" {
  monitor { password = env("TEST_UNSET_VARIABLE", "hunter2", "hunter2") }
  backend "db1" { address = "10.0.0.51:5432" }
}
route { cluster = "unquoted" }
