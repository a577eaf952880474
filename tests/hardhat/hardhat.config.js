// A node with the rules, accounts and free gas of the Anvil that ape starts, so that the same tests run on both.
module.exports = {
  // Contracts are compiled by ape; Hardhat asks for a compiler all the same.
  solidity: "0.8.28",
  networks: {
    hardhat: {
      hardfork: "prague",
      chainId: 31337,
      initialBaseFeePerGas: 0,
      blockGasLimit: 30_000_000,
    },
  },
};
