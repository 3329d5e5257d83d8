"""The firewall: who may connect to whom, rendered as one nftables table, when containers have a network."""
