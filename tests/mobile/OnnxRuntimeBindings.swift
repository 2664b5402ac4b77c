// What runtime/mobile/ios.md uses of ONNX Runtime's Objective-C interface, over its C interface, so that the page's code
// compiles and runs where there is no Objective-C. Names and types are those that Swift makes of the headers in ONNX
// Runtime's objectivec/include; Core ML and XNNPACK are there to compile against and do nothing.
import COnnxRuntime
import Foundation

private let api = OrtGetApiBase()!.pointee.GetApi(UInt32(ORT_API_VERSION))!.pointee

private func check(_ status: OpaquePointer?) throws {
    guard let status else { return }
    defer { api.ReleaseStatus(status) }
    let text = String(cString: api.GetErrorMessage(status)!)
    throw NSError(domain: "onnxruntime", code: 1, userInfo: [NSLocalizedDescriptionKey: text])
}

public enum ORTLoggingLevel: Int32 { case verbose, info, warning, error, fatal }

public enum ORTTensorElementDataType: Int32 {
    case undefined, float, int8, uInt8, int32, uInt32, int64, uInt64, string
}

public class ORTEnv {
    fileprivate var held: OpaquePointer?

    public init(loggingLevel: ORTLoggingLevel) throws {
        try check(api.CreateEnv(OrtLoggingLevel(UInt32(loggingLevel.rawValue)), "swift", &held))
    }

    deinit { api.ReleaseEnv(held) }
}

public class ORTCoreMLExecutionProviderOptions {
    public var createMLProgram = false
    public init() {}
}

public class ORTXnnpackExecutionProviderOptions {
    public var intra_op_num_threads: Int32 = 0
    public init() {}
}

public class ORTRunOptions {}

public class ORTSessionOptions {
    fileprivate var held: OpaquePointer?

    public init() throws { try check(api.CreateSessionOptions(&held)) }

    deinit { api.ReleaseSessionOptions(held) }

    public func setIntraOpNumThreads(_ count: Int32) throws { try check(api.SetIntraOpNumThreads(held, count)) }
    public func appendCoreMLExecutionProvider(with options: ORTCoreMLExecutionProviderOptions) throws {}
    public func appendXnnpackExecutionProvider(with options: ORTXnnpackExecutionProviderOptions) throws {}
}

public class ORTValue {
    fileprivate var held: OpaquePointer?
    private let data: NSMutableData?

    fileprivate init(_ value: OpaquePointer?) {
        held = value
        data = nil
    }

    public init(tensorData: NSMutableData, elementType: ORTTensorElementDataType, shape: [NSNumber]) throws {
        data = tensorData
        let type = elementType == .uInt8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT
        var memory: OpaquePointer?
        try check(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory))
        defer { api.ReleaseMemoryInfo(memory) }
        try check(api.CreateTensorWithDataAsOrtValue(
            memory, tensorData.mutableBytes, tensorData.length, shape.map(\.int64Value), shape.count, type, &held))
    }

    deinit { api.ReleaseValue(held) }

    /// Of float32 tensors, which is all that scores are.
    public func tensorData() throws -> NSMutableData {
        var info: OpaquePointer?
        try check(api.GetTensorTypeAndShape(held, &info))
        defer { api.ReleaseTensorTypeAndShapeInfo(info) }
        var count = 0
        try check(api.GetTensorShapeElementCount(info, &count))
        var bytes: UnsafeMutableRawPointer?
        try check(api.GetTensorMutableData(held, &bytes))
        return NSMutableData(bytes: bytes!, length: count * MemoryLayout<Float>.size)
    }
}

public class ORTSession {
    private var held: OpaquePointer?
    private let env: ORTEnv

    public init(env: ORTEnv, modelPath: String, sessionOptions: ORTSessionOptions?) throws {
        self.env = env
        try check(api.CreateSession(env.held, modelPath, sessionOptions?.held, &held))
    }

    deinit { api.ReleaseSession(held) }

    public func run(
        withInputs inputs: [String: ORTValue], outputNames: Set<String>, runOptions: ORTRunOptions?
    ) throws -> [String: ORTValue] {
        var results: [String: ORTValue] = [:]
        let (name, x) = inputs.first!  // the page's graphs have one input
        for output in outputNames {
            var y: OpaquePointer?
            try name.withCString { from in
                try output.withCString { to in
                    try check(api.Run(held, nil, [from], [x.held], 1, [to], 1, &y))
                }
            }
            results[output] = ORTValue(y)
        }
        return results
    }
}
