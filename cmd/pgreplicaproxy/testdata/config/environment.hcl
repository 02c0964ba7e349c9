cluster "main" {
  monitor {
    user     = env("TEST_UNSET_VARIABLE")
    password = env("TEST_UNSET_VARIABLE")
    database = env("A", "b", "c")
  }
  backend "db1" { address = file("no-such-file") }
}
