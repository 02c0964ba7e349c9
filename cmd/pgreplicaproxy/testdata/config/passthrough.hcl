cluster "one" {
  authentication       = "scram_passthrough"
  allow_authentication = ["scram-sha-256", "md5"]
  secrets_file         = "no-such-file"
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "127.0.0.1:5432" }
}
cluster "two" {
  authentication = "relay"
  secrets_file   = "secrets.txt"
  mock_key_file  = "mock.key"
  monitor { password = env("TEST_MONITOR_PASSWORD") }
  backend "db1" { address = "127.0.0.1:5433" }
}
route { cluster = "one" }
