cluster "main" {
  monitor { password = file("secret.txt") }
  backend "db1" {
    address = "10.0.0.11:5432"
    resolve = "20s"
  }
  backend "db2" {
    address = "/var/run/postgresql"
    resolve = "20s"
  }
  backend "db3" {
    address = "db3.internal"
    resolve = "1ms"
  }
  backend "db4" {
    address    = "db4.internal"
    dns_server = "10.0.0.53"
  }
  backend "db5" {
    address    = "db5.internal"
    resolve    = "20s"
    dns_server = "ns.internal"
  }
  patroni {
    urls      = ["10.0.0.11:8008", "http://user@10.0.0.11:8008", "http://10.0.0.11:8008/?all", 5]
    interval  = "often"
    root_file = "missing.crt"
  }
}

cluster "second" {
  monitor { password = file("secret.txt") }
  patroni {
    urls      = ["http://10.0.0.11:8008"]
    root_file = "missing.crt"
  }
}

cluster "third" {
  monitor { password = file("secret.txt") }
  patroni { urls = [] }
}

cluster "fourth" {
  monitor { password = file("secret.txt") }
  patroni {}
}

route { cluster = "main" }
