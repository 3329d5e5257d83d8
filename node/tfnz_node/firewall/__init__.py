"""The firewall: who may connect to whom, rendered as one nftables table, once containers have a network."""
